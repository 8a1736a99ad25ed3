"""Criteria of success, one a module."""
