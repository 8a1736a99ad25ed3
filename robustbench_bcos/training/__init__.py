"""Recipes that made the zoo, and the loop that follows them."""
