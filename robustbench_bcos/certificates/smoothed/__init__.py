"""What can be certified of a network whose images get Gaussian noise, a module each."""
