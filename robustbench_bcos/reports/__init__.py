"""What is shown of a run. Reads a run folder, never a model."""
