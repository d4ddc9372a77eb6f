"""Checkpoints as upstream's policy actor saves them, made in plain process groups, with the weights that it held."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from e2e_cpu import ranks

LIVE = "live.pt"


@dataclass(frozen=True)
class Save:
    """One training step of the model in `base` under `flags`, and a save of everything that upstream can save.

    In the run folder `name` are then `manifest.json`, `metrics.jsonl`, `checkpoints/_actor/<tag>` (DeepSpeed's), `model`
    (upstream's own export), and `live.pt`: the parameters by name, as they were held.
    `sub_group` is DeepSpeed's `sub_group_size`: under ZeRO-3, weights beyond it go into another tensor of the shard.
    """

    name: str
    base: Path
    flags: tuple[str, ...] = ()
    lora_rank: int = 0
    sub_group: int | None = None
    tags: tuple[str, ...] = ("global_step1",)

    @property
    def case(self) -> ranks.Case:
        return ranks.Case(self.name, ("--mel.enable=false", *self.flags), meta=0, micro_batch=4)


def save_all(folder: Path, saves: list[Save], count: int) -> None:
    """Go through `saves` with `count` ranks; raises what a rank raised."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.start_processes(_rank, args=(count, port, folder, saves), nprocs=count, start_method="spawn")


def _rank(rank: int, count: int, port: int, folder: Path, saves: list[Save]) -> None:
    from openrlhf_mel.cpu import standins

    standins.install()
    os.environ["OMP_NUM_THREADS"] = "1"
    for save in saves:
        _save(save, rank, count, port, folder / save.name)


def _save(save: Save, rank: int, count: int, port: int, run_dir: Path) -> None:
    from openrlhf.trainer.ray import ppo_actor
    from openrlhf.utils import get_strategy
    from openrlhf.utils.config import hierarchize

    from openrlhf_mel import runlog
    from openrlhf_mel.cpu import policy
    from openrlhf_mel.upstream import flags, policy_actor
    from openrlhf_mel.upstream.settings import resolve

    case = save.case
    paths = [f"--actor.model_name_or_path={save.base}", f"--mel.run_dir={run_dir}"]
    settings = resolve(None, [*case.arguments, *paths, f"--actor.num_gpus_per_node={count}"])
    args = hierarchize(flags.parser().parse_args(settings.argv))
    args.mel = settings.mel
    args.actor.eps_clip_low_high = (args.actor.eps_clip, args.actor.eps_clip)
    args.rollout.max_tokens_per_gpu = args.train.max_tokens_per_gpu
    args.ckpt.output_dir = str(run_dir / "model")
    args.ds.lora.rank = save.lora_rank  # our CPU runtime refuses it in a run, for want of a hand-over to the engine
    ppo_actor.iter_grad_accum_global_norm = policy_actor._iter_counting_correct
    policy.install()
    if save.sub_group:
        _set_sub_group(save.sub_group)
    actor = policy.CPUPolicyModel(count, rank, "127.0.0.1", port)
    strategy = get_strategy(args)
    actor.init_model_from_pretrained(strategy, str(save.base), 100, None)
    for experience in ranks._experiences(actor, ranks.make_rollout(case), rank, count):
        actor.append(experience)
    actor.fit(0.0)
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
        for tag in save.tags:
            actor.save_checkpoint(tag, _client_states(), metric_value=0.5, metric_key="eval_toy_pass1")
        actor.save_model()
    live = ranks._parameters(actor)
    if rank == 0:
        torch.save(live, run_dir / LIVE)
        config = settings.as_dict() | {"ds.lora.rank": save.lora_rank}
        runlog.write_json(run_dir / runlog.MANIFEST, {"config": config, "finished": "now"})
        runlog.append_lines(run_dir / runlog.METRICS, [{"step": 1}, {"step": 2}])


def _set_sub_group(size: int) -> None:
    """Until `policy.install` puts its own function back, with the next save."""
    import openrlhf.utils.deepspeed.deepspeed as strategy_module

    made = strategy_module.get_train_ds_config

    def smaller(*args: Any, **kwargs: Any) -> dict[str, Any]:
        config = made(*args, **kwargs)
        config["zero_optimization"]["sub_group_size"] = size
        return config

    strategy_module.get_train_ds_config = smaller


def _client_states() -> dict[str, Any]:
    """What upstream's trainer adds to a checkpoint."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    loader = StatefulDataLoader(list(range(8)), batch_size=2, shuffle=True)
    next(iter(loader))
    return {
        "episode": 0,
        "global_step": 1,
        "total_consumed_prompts": 8,
        "data_loader_state_dict": loader.state_dict(),
        "best_eval_metric_key": "eval_toy_pass1",
        "best_eval_metric_value": 0.5,
        "latest_eval_metric_value": None,
    }
