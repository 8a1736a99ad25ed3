"""Attacks, one a module."""
