"""What runs on a cluster: what the batch scripts start with `python -m`, from the root of the project."""
