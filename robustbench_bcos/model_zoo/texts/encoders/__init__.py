"""One encoder of texts each."""
