"""Protocols of the grid pointing game, one a module."""
