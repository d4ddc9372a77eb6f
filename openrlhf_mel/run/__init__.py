"""A run's folder: its records, its checkpoints, and the description of a failure."""
