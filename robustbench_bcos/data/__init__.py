"""Where images come from: datasets, and the fixed slices of them that a run uses."""
