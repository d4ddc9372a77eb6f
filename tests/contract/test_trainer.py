"""The trainer's own bookkeeping, without a cluster."""

from types import SimpleNamespace

import pytest

from openrlhf_mel import runlog

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def trainer(tmp_path):
    """Upstream's real class with MEL's steps, before anything that needs a cluster."""
    from openrlhf_mel.guard import CollapseGuard
    from openrlhf_mel.upstream.trainer import MELTrainer

    (tmp_path / "logs").mkdir()
    made = object.__new__(MELTrainer)
    made.mel, made.run_dir = SimpleNamespace(warn_after_empty_steps=3, enable=True), tmp_path
    made._empty_steps, made._mel_metrics, made._started = 0, {}, 0.0
    made._guard, made._evaluated = CollapseGuard(3), set()
    made.args = SimpleNamespace(
        logger=SimpleNamespace(logging_steps=1),
        ckpt=SimpleNamespace(save_steps=float("inf"), path=str(tmp_path), load_enable=True),
    )
    made.wandb_logger = made.tensorboard_logger = None
    made.best_eval_metric_key = "none"
    return made


def warnings(trainer):
    return list(runlog.read_lines(trainer.run_dir / "logs" / "warnings.jsonl"))


def test_a_yield_that_stays_zero_is_warned_of_with_the_counts(trainer):
    trainer._mel_metrics = {"mel/candidates": 4, "mel/dropped/truncated": 4, "mel/dropped/leak": 0}
    dropped, kept = SimpleNamespace(kept=False), SimpleNamespace(kept=True)
    for step, candidates in enumerate([[dropped], [], [kept], [dropped], [dropped], [], [dropped]], 1):
        trainer._warn_when_empty(candidates, step)
    (warning,) = warnings(trainer)
    assert warning["step"] == 6 and "for 3 steps" in warning["warning"]
    assert "'dropped/truncated': 4" in warning["warning"] and "leak" not in warning["warning"]


def test_a_collapse_is_warned_of_once_and_a_resume_does_not_forget_it(trainer, monkeypatch):
    from openrlhf_mel.guard import CollapseGuard
    from openrlhf_mel.upstream import trainer as module

    entropies = [0.5, 0.5, 0.5, 0.4, 0.01, 0.01, 0.01, 0.01]
    for step, entropy in enumerate(entropies, 1):
        trainer.save_logs_and_checkpoints(step, {"policy/entropy": entropy})
    (warning,) = warnings(trainer)
    assert "entropy collapse" in warning["warning"] and "0.5 over steps 1-3" in warning["warning"]
    assert [m["policy/entropy"] for m in runlog.read_lines(trainer.run_dir / runlog.METRICS)] == entropies

    states = {
        "global_step": 7, "episode": 1, "total_consumed_prompts": 9, "checkpoint_parallel_dimensions": "DeepSpeed's own",
        "data_loader_state_dict": {"_iterator_finished": False},
    }  # fmt: skip
    monkeypatch.setattr(module._UpstreamTrainer, "init_checkpoint_states", lambda self: states)
    trainer.samples_generator, trainer._guard = SimpleNamespace(step=0), CollapseGuard(3)
    assert trainer.init_checkpoint_states() is states and trainer.samples_generator.step == 7
    assert "checkpoint_parallel_dimensions" not in trainer._restored
    assert [m["step"] for m in runlog.read_lines(trainer.run_dir / runlog.METRICS)] == [1, 2, 3, 4, 5, 6, 7]
    trainer.save_logs_and_checkpoints(8, {"policy/entropy": 0.01})
    assert len(warnings(trainer)) == 1 and states["episode"] == 1


def test_a_resume_from_the_datas_end_begins_the_next_episode(trainer, monkeypatch):
    """As torchdata's loader marks it, when the last draw found fewer questions than it was to."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    from openrlhf_mel.upstream import trainer as module

    loader = StatefulDataLoader(list(range(5)), batch_size=1)
    drawn = iter(loader)
    for _ in range(5):
        next(drawn)
    before = loader.state_dict()
    assert next(drawn, None) is None
    after = loader.state_dict()
    trainer.samples_generator = SimpleNamespace(step=0)
    for saved, episode in ((before, 0), (after, 1)):
        states = {"global_step": 3, "episode": 0, "total_consumed_prompts": 5, "data_loader_state_dict": saved}
        monkeypatch.setattr(module._UpstreamTrainer, "init_checkpoint_states", lambda self, states=states: states)
        assert trainer.init_checkpoint_states()["episode"] == episode


def test_every_evaluation_leaves_a_line(trainer):
    for _ in range(2):  # the asynchronous trainer evaluates again after a resume
        trainer.save_best_checkpoint({"eval_default_pass1": 0.25}, 4, {})
    assert list(runlog.read_lines(trainer.run_dir / runlog.EVALUATIONS)) == [{"step": 4, "eval_default_pass1": 0.25}]


def test_meta_experiences_that_no_optimizer_step_learned_are_told(trainer):
    trainer._warn_when_unlearned(3, {"mel/learned": 3}, 1)
    trainer._warn_when_unlearned(0, {"mel/learned": 0}, 2)
    assert warnings(trainer) == []
    trainer._warn_when_unlearned(3, {"mel/learned": 0}, 3)
    assert "3 kept meta-experiences were not learned" in warnings(trainer)[0]["warning"]


def test_an_evaluation_that_a_stop_prevented_is_made_up_for_once(trainer, monkeypatch):
    from openrlhf_mel.upstream.trainer import MELSteps

    trainer.args.eval = SimpleNamespace(steps=2, temperature=0.6, n_samples_per_prompt=4)
    trainer.eval_dataloader, trainer.generate_kwargs, trainer._restored = object(), {"max_len": 9}, {}
    asked = []
    trainer.evaluate = lambda step, **sampling: asked.append((step, sampling)) or {"eval_default_pass1": 1.0}
    monkeypatch.setattr(MELSteps, "train_step", lambda self, samples, step: ({}, step + 1))
    for step in (0, 1, 2, 2, 3):
        trainer.train_step([], step)
    assert asked == [(2, {"max_len": 9, "temperature": 0.6, "n_samples_per_prompt": 4})]
