"""In the evaluation's place: its first attempt goes on until it is ended, the second ends by itself."""

import os
import signal

attempt = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
print("evaluating, attempt", attempt + 1, flush=True)
if not attempt:
    signal.pause()
