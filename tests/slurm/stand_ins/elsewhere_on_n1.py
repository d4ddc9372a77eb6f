"""The node check, which on n1 sees another folder in place of the project's."""

import os
import sys
import tempfile

if os.environ["SLURMD_NODENAME"] == "n1":
    os.environ["MEL_LOG_DIR"] = tempfile.gettempdir()
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
