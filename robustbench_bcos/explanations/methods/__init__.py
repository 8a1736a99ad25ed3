"""One method of explanation to a module, which is called like the method."""
