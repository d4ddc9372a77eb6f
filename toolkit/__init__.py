"""Shared by the commands of `data` and `eval`: exit codes, progress bars, and atomic output folders."""
