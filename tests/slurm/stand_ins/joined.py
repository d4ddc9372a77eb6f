"""Stand-in for the wait for Ray: all nodes have joined."""
