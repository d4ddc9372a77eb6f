"""In the place of what fails at once."""

raise SystemExit("cannot start")
