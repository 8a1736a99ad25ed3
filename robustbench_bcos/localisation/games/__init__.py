"""Games, one a module."""
