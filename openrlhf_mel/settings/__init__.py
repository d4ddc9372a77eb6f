"""A run's settings: every option and flag, contradictions, and checks before Ray starts."""
