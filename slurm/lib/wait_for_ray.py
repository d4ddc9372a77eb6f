"""Waits until nodes have joined a Ray cluster: python -m slurm.lib.wait_for_ray HOST:PORT SECONDS NODE=ADDRESS..."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

from slurm.lib import this_node


def main(head: str, seconds: str, *nodes: str) -> int:
    """Returns 0 when all have joined with their GPUs; 1 when time is up, naming what is missing."""
    started = time.monotonic()
    deadline = started + float(seconds)
    wanted = {address: name for name, _, address in (node.partition("=") for node in nodes)}
    # Ray's own calls wait for minutes when nothing answers, and cannot be interrupted.
    last = threading.Timer(float(seconds) + 30, os._exit, [1])
    last.daemon = True
    last.start()
    if not answers(head, deadline):
        print(f"error: Ray's head did not answer at {head} within {seconds} s", file=sys.stderr)
        return 1
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning
    import ray

    ray.init(address=head, log_to_driver=False, logging_level="error")
    while True:
        there = {node["NodeManagerAddress"]: node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]}
        missing = [name for address, name in wanted.items() if there.get(address, -1) < this_node.GPUS]
        if not missing:
            break
        if time.monotonic() > deadline:
            print(f"error: {', '.join(missing)}: not in the Ray cluster after {seconds} s", file=sys.stderr)
            return 1
        time.sleep(0.5)
    gpus = f", {sum(there.values()):.0f} GPUs" if this_node.GPUS else ""
    print(f"Ray: {len(wanted)} of {len(nodes)} nodes{gpus} after {time.monotonic() - started:.0f} s")
    return 0


def answers(head: str, deadline: float) -> bool:
    """Whether the head's port can be reached in time."""
    host, _, port = head.rpartition(":")
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return True
        except OSError:
            time.sleep(0.5)
    return False


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
