"""In the place of the wait for Ray: everyone has joined."""
