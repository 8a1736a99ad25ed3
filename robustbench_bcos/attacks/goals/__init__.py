"""Goals for maps at a prediction that is kept, one a module."""
