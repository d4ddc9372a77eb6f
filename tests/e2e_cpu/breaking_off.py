"""Breaks off requests of real rollout engines, and lets one go ahead of others; prints as JSON what it found.

python -m e2e_cpu.breaking_off vllm|transformers RUN_DIR
"""

import asyncio
import json
import sys
import time

from openrlhf_mel import launch
from openrlhf_mel.settings.resolve import resolve
from openrlhf_mel.upstream import AGENT_EXECUTOR

MS, REPLAYS, ENGINES, LENGTH = 48, 16, 2, 320
WAITING = 3 * 128  # requests for the 128 slots of one engine


def main(name, run_dir):
    flags = [
        f"--mel.cpu_engine={name}",
        "--mel.runtime=cpu",
        f"--mel.run_dir={run_dir}",
        f"--vllm.num_engines={ENGINES}",
    ]
    settings = resolve("data/toy/mel.yaml", flags, agent_executor=AGENT_EXECUTOR)
    launch.prepare_process(settings.mel)
    launch.start_ray(settings)
    launch.substitute(settings)
    import openrlhf.trainer.ray as upstream_ray
    from transformers import AutoTokenizer

    from openrlhf_mel.upstream import ray_engine
    from openrlhf_mel.upstream.ray_engine import RayEngine

    asked = ray_engine._params

    def whole(sampling):  # none ends by itself before it is cancelled, on a fast machine either
        params = asked(sampling)
        params.min_tokens = params.max_tokens
        return params

    ray_engine._params = whole

    # by position, as upstream's entry passes them: the tenth is the share of a GPU's memory
    given = (ENGINES, 1, "data/toy/model", 1, False, False, True, 384, None, 0.5)
    engines = upstream_ray.create_vllm_engines(*given, agent_func_path=AGENT_EXECUTOR)
    engine = RayEngine(engines, AutoTokenizer.from_pretrained("data/toy/model"), 384)
    asyncio.run(asyncio.wait_for(show(engine, engines), 200))
    alone = RayEngine(engines[:1], AutoTokenizer.from_pretrained("data/toy/model"), 384)
    asyncio.run(asyncio.wait_for(overtake(alone, engines[0]), 60))
    launch.stop_ray()


async def show(engine, engines):
    import ray

    from openrlhf_mel.method.construction import EngineSampling

    sampling = EngineSampling(1.0, 1.0, LENGTH)
    prompt = engine.encode("Compute 12+3*4.\n")
    first = await engine.generate(prompt, sampling)  # which takes long
    engine.begin_counting()
    ms = [asyncio.create_task(engine.generate(prompt, sampling)) for _ in range(MS)]
    replays = [asyncio.create_task(engine.respond("Compute 12+3*4.\n", "24", sampling, 2)) for _ in range(REPLAYS)]
    while not sum(timeline.tokens for timeline in await asyncio.to_thread(engine.timelines)):
        await asyncio.sleep(0.005)
    for task in (*ms, *replays):
        task.cancel()
    ended = await asyncio.gather(*ms, *replays, return_exceptions=True)
    begun = time.monotonic()
    lost = await engine.settle()
    found = {
        "seconds": time.monotonic() - begun,
        "cancelled": sum(isinstance(each, asyncio.CancelledError) for each in ended),
        "lost": lost,
        "counted": sum(timeline.tokens for timeline in await asyncio.to_thread(engine.timelines)),
        "unfinished": await asyncio.to_thread(ray.get, [one.get_num_unfinished_requests.remote() for one in engines]),
    }
    await asyncio.sleep(0.5)
    found["counted later"] = sum(timeline.tokens for timeline in await asyncio.to_thread(engine.timelines))
    after = await engine.generate(prompt, sampling)
    found["generates"] = [len(first.token_ids), len(after.token_ids)]
    print(f"FOUND {json.dumps(found)}", flush=True)


async def overtake(engine, actor):
    """Print how many of the requests that were sent before it are unfinished when M's request ends."""
    from vllm import SamplingParams

    from openrlhf_mel.method.construction import EngineSampling

    prompt = engine.encode("Compute 12+3*4.\n")
    told = SamplingParams(temperature=1.0, max_tokens=32, min_tokens=32, skip_special_tokens=False)
    calls = [asyncio.wrap_future(actor.generate.remote(prompt, told).future()) for _ in range(WAITING)]
    await engine.generate(prompt, EngineSampling(1.0, 1.0, 32))
    print(f"OVERTAKEN {sum(not call.done() for call in calls)}", flush=True)
    await asyncio.gather(*calls)


if __name__ == "__main__":
    main(*sys.argv[1:])
