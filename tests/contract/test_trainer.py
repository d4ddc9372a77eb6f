"""The trainer's own bookkeeping, without a cluster."""

from types import SimpleNamespace

import pytest

from openrlhf_mel import runlog

pytestmark = pytest.mark.timeout(60)


def test_a_yield_that_stays_zero_is_warned_of_with_the_counts(tmp_path):
    from openrlhf_mel.upstream.trainer import MELTrainer

    (tmp_path / "logs").mkdir()
    trainer = object.__new__(MELTrainer)
    trainer.mel, trainer.run_dir, trainer._empty_steps = SimpleNamespace(warn_after_empty_steps=3), tmp_path, 0
    trainer._mel_metrics = {"mel/candidates": 4, "mel/dropped/truncated": 4, "mel/dropped/leak": 0}
    dropped, kept = SimpleNamespace(kept=False), SimpleNamespace(kept=True)
    for step, candidates in enumerate([[dropped], [], [kept], [dropped], [dropped], [], [dropped]], 1):
        trainer._warn_when_empty(candidates, step)
    (warning,) = runlog.read_lines(tmp_path / "logs" / "warnings.jsonl")
    assert warning["step"] == 6 and "for 3 steps" in warning["warning"]
    assert "'dropped/truncated': 4" in warning["warning"] and "leak" not in warning["warning"]
