"""Systems, one a module."""
