"""Converters of kinds of layers, one module each."""
