"""The version of the package, in the one place it is written."""

VERSION = "0.3.0"
