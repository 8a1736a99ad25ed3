"""The stages of a run: functions from a model, its cells and what is known to rows. Only the runner writes."""
