"""The watch interrupts a main thread that blocks in Ray; on a real Ray, with actors as stand-ins for engines."""

import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(200)]
REPO = Path(__file__).resolve().parents[2]

# A separate process, like a training's driver: only its main thread can be interrupted.
DRIVER = """
import asyncio, os, sys, time
import ray
from openrlhf_mel.upstream.watch import EngineWatch


@ray.remote
class Engine:
    def __init__(self, way, path):
        self.way, self.path = way, path

    async def until_dead(self):
        while not os.path.exists(self.path):
            await asyncio.sleep(0.1)
        if self.way.startswith("fails"):
            raise ValueError("a weight of another shape")
        os._exit(1)

    async def never(self):
        await asyncio.sleep(3600)


way, path = sys.argv[1:]
ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20)
watch = EngineWatch()
engines = watch.around(lambda: [Engine.remote(way, p) for p in ("/nowhere/at/all", path)])()
waiting = [engine.never.remote() for engine in engines]
if way == "ends first":
    ray.wait(waiting, timeout=1)
    ray.shutdown()
    time.sleep(2)
    print("ended by itself")
    sys.exit(0)
ray.wait(waiting, timeout=2)
if way == "fails late":
    try:
        with watch:
            open(path, "w").close()
            raise RuntimeError("connection closed by peer")
    except RuntimeError as error:
        print(error, watch.died, sep=" | ")
        time.sleep(1)  # an interrupt now would be outside of `with`
    sys.exit(0)
open(path, "w").close()
begin = time.monotonic()
try:
    with watch:
        ray.get(waiting[0])  # of the engine that is well
except KeyboardInterrupt:
    print(watch.died, type(watch.died.error).__name__, watch.died.error, sep=" | ")
    assert time.monotonic() - begin < 30
"""


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("fails", "rollout engine 2 of 2 died | RayTaskError(ValueError) | "),
        pytest.param("exits", "rollout engine 2 of 2 died | ActorDiedError | ", marks=pytest.mark.slow),
        pytest.param("fails late", "connection closed by peer | rollout engine 2 of 2 died", marks=pytest.mark.slow),
        pytest.param("ends first", "ended by itself", marks=pytest.mark.slow),
    ],
)
def test_a_death_interrupts_the_wait(command, tmp_path, way, says):
    done = command(sys.executable, "-c", DRIVER, way, tmp_path / "die", limit=100)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout, done.stdout + done.stderr
    assert ("a weight of another shape" in done.stdout) == (way == "fails")
