"""What the commands of `data` and `eval` share: how they end, and output folders that are whole or not there."""
