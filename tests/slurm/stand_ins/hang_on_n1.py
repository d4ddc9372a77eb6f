"""Stand-in that never answers on node n1 and runs the real program on other nodes."""

import os
import signal
import sys

if os.environ["SLURMD_NODENAME"] == "n1":
    signal.pause()
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
