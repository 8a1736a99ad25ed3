"""Checks that could refute a number: what they do, on which images, and what follows for the row it stands in."""
