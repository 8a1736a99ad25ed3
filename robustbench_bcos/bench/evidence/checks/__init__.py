"""Checks, one a module.

A run is read with all of them, and without torch: what examines a model is imported by the method that does.
"""
