"""A run's folder: its records, its checkpoints, and what is said of a run that failed."""
