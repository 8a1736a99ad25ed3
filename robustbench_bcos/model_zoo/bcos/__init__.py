"""Layers of B-cos networks, explanation mode, and folded copies for evaluation."""
