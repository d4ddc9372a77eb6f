"""The command that a job runs first (`python -m openrlhf_mel.preflight`): checks and estimates, without a GPU."""
