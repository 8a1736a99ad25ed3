"""Contrasts, one a module."""
