"""Checkpoints saved by upstream's policy actor in plain process groups, with the live weights for comparison."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from e2e_cpu import nursery, ranks
from e2e_cpu.oracle import Rollout, sample

from openrlhf_mel import disk

LIVE = "live.pt"


@dataclass(frozen=True)
class Save:
    """One training step of the model in `base` under `flags`, then a save of everything that upstream can save.

    The run folder `name` then has `manifest.json`, `metrics.jsonl`, `checkpoints/_actor/<tag>` (DeepSpeed's), `model`
    (upstream's own export), and `live.pt`: the live parameters by name.
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
        flags = ("--mel.enable=false", *self.flags)
        return ranks.Case(flags, (Rollout(meta=0),), micro_batch=4, learning_rate=1e-3, lora_rank=self.lora_rank)


def save_all(folder: Path, saves: list[Save], count: int) -> None:
    """Make all `saves` with `count` ranks; a rank's error is raised."""
    for save in saves:
        nursery.run(_save, save, count, ranks.free_port(), folder / save.name, ranks=count)


def _save(rank: int, save: Save, count: int, port: int, run_dir: Path) -> None:
    from openrlhf_mel.run import records

    case = save.case
    paths = [f"--actor.model_name_or_path={save.base}", f"--mel.run_dir={run_dir}"]
    args = ranks.arguments(case, count, *paths)
    args.ckpt.output_dir = str(run_dir / "model")
    if save.sub_group:
        _set_sub_group(save.sub_group)
    strategy, actor = ranks.start(case, args, rank, count, port, save.base)
    data = sample(case.rollouts[0], lambda prompt, response: _log_probs(actor, prompt, response))
    ranks.learn(case, strategy, actor, [data], rank, count)
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
        for tag in save.tags:
            actor.save_checkpoint(tag, _client_states(), metric_value=0.5, metric_key="eval_toy_pass1")
        actor.save_model()
    live = ranks.parameters(actor)
    if rank == 0:
        torch.save(live, run_dir / LIVE)
        config = case.settings(count, *paths).as_dict() | {"ds.lora.rank": save.lora_rank}
        disk.write_json(run_dir / records.MANIFEST, {"config": config, "finished": "now"})
        disk.append_lines(run_dir / records.METRICS, [{"step": 1}, {"step": 2}])


def _log_probs(actor: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    ids = torch.tensor([prompt + response])
    return actor.forward(ids, torch.ones(1, ids.size(1) - 1), torch.ones_like(ids))[0, -len(response) :].double()


def _set_sub_group(size: int) -> None:
    from openrlhf_mel.cpu import policy

    made = policy.get_train_ds_config

    def smaller(*args: Any, **kwargs: Any) -> dict[str, Any]:
        config = made(*args, **kwargs)
        config["zero_optimization"]["sub_group_size"] = size
        return config

    policy.get_train_ds_config = smaller


def _client_states() -> dict[str, Any]:
    """Return the states that upstream's trainer adds to a checkpoint."""
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
