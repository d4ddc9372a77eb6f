"""Trains GRPO and MEL on the built-in task, and evaluates both on held-out questions (`make demo`)."""
