"""Stand-in for the trainer with the same contract: resumes, checks for `stop` between steps, saves, exits with 75.

It takes `--steps N` steps of a tenth of a second; `--die-at N` ends it there with the exit code `--die-with N`. It
records its arguments and environment in its folder.
"""

import json
import os
import sys
import time
from pathlib import Path

arguments = sys.argv[1:]


def value(flag, default=None):
    return arguments[len(arguments) - 1 - arguments[::-1].index(flag) + 1] if flag in arguments else default


run_dir = Path(value("--mel.run_dir"))
saved = run_dir / "steps"
done = int(saved.read_text()) if saved.exists() else 0
with open(run_dir / "starts.jsonl", "a") as file:
    told = ("SLURM", "SRUN", "MEL_TMP", "CUDA_VISIBLE_DEVICES")
    start = {
        "from": done,
        "argv": arguments,
        "environment": {k: v for k, v in os.environ.items() if k.startswith(told)},
    }
    file.write(json.dumps(start) + "\n")
(run_dir / "manifest.json").write_text('{"finished": null}')
for step in range(done + 1, int(value("--steps", "5")) + 1):
    print("step", step, flush=True)
    if step == int(value("--die-at", "-1")):
        sys.exit(int(value("--die-with", "1")))
    time.sleep(0.1)
    aside = saved.with_suffix(".aside")  # never half written, even after a kill
    aside.write_text(str(step))
    aside.replace(saved)
    if (run_dir / "stop").exists():
        print("stop file found, saved", flush=True)
        (run_dir / "stop").replace(run_dir / "stopped")
        sys.exit(75)
(run_dir / "manifest.json").write_text('{"finished": "now"}')
