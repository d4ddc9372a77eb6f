"""Atomic DeepSpeed checkpoints (`openrlhf_mel.run.checkpoint`) instead of upstream's `save_ckpt`.

Every rank writes its part; rank 0 alone renames, rotates and sets `latest`. A new checkpoint gets its name before an
old one is removed.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch.distributed as dist

from openrlhf_mel import disk
from openrlhf_mel.run import carried_experiences, checkpoint


def save(
    strategy: Any,
    engine: Any,
    folder: Path,
    tag: str,
    client_states: dict[str, Any],
    metric_value: float | None,
    metric_key: str | None,
) -> None:
    """Save `engine` as `folder/tag`, with the Ms carried over in a file of its own. Called on every rank.

    Rotates by `ckpt.max_num` and `ckpt.max_mem` (GiB).

    Raises: checkpoint.Incomplete: on every rank, when the new checkpoint is not whole; older checkpoints are untouched.
        For an old one that cannot be removed there is only a warning.
    """
    partial = f"{tag}{checkpoint.PARTIAL}"
    if strategy.is_rank_0():
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.clear(folder)
    dist.barrier()
    carried = client_states.pop(carried_experiences.STATE, [])  # upstream logs all of the other states at a resume
    engine.save_checkpoint(str(folder), tag=partial, client_state=client_states, save_latest=False)
    dist.barrier()
    problem: list[str | None] = [None]
    if strategy.is_rank_0():
        try:
            carried_experiences.write(folder / partial, carried)
            _name(strategy, folder, folder / partial, metric_value, metric_key)
        except (checkpoint.Incomplete, OSError) as error:
            problem = [str(error)]
    dist.broadcast_object_list(problem, src=0)  # so that no rank continues while another has failed
    if problem[0]:
        raise checkpoint.Incomplete(problem[0])
    if strategy.is_rank_0():
        _rotate(strategy, folder)
    gc.collect()


def _name(strategy: Any, folder: Path, partial: Path, metric_value: float | None, metric_key: str | None) -> None:
    # Upstream's own record of a finished save, by which other tools rank checkpoints.
    metric = {"metric_key": metric_key, "metric_value": metric_value}
    disk.write_json(partial / strategy.CKPT_METRIC_FILENAME, metric)
    sealed = checkpoint.seal(partial, dist.get_world_size(), metric_value, metric_key)
    checkpoint.point(folder, sealed.name)


def _rotate(strategy: Any, folder: Path) -> None:
    ckpt = strategy.args.ckpt
    for gone in checkpoint.rotate(folder, ckpt.max_num, ckpt.max_mem * 2**30):
        strategy.print(f"Deleted checkpoint {gone}")
