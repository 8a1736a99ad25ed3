"""Solvers, one a module."""
