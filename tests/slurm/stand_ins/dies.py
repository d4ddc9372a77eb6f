"""Stand-in that fails at once."""

raise SystemExit("cannot start")
