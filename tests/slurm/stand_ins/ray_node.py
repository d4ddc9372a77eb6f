"""Stand-in for a node's Ray: runs until told to end. On n1 it dies when the file $BROKEN exists."""

import os
import sys
import time
from pathlib import Path

broken = Path(os.environ.get("BROKEN", "/nowhere"))
while not Path(os.environ["MEL_LOG_DIR"], "ray-end").exists():
    if os.environ["SLURMD_NODENAME"] == "n1" and broken.exists():
        sys.exit(1)
    time.sleep(0.1)
