"""Rules for kinds of functions, one module each."""
