"""A run's settings: every option and flag, what goes together, and what can be checked before Ray starts."""
