"""In the place of what never answers on node n1, and does its work elsewhere."""

import os
import signal
import sys

if os.environ["SLURMD_NODENAME"] == "n1":
    signal.pause()
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
