"""Stand-in that never answers."""

import signal

signal.pause()
