"""Losses, one a module."""
