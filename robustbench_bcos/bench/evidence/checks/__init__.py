"""Checks, one a module."""
