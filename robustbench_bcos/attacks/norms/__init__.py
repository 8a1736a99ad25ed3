"""Norms of perturbations, one a module."""
