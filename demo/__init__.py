"""GRPO and MEL on the built-in task, and how both do on held-out questions (`make demo`)."""
