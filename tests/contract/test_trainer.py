"""The trainer's own bookkeeping, without a cluster."""

import inspect
import math
from types import SimpleNamespace

import pytest

from openrlhf_mel.run import records

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def trainer(tmp_path):
    """Upstream's real class with MEL's steps, before anything that needs a cluster."""
    from openrlhf_mel.method.guard import CollapseGuard
    from openrlhf_mel.method.metrics import RecentTexts
    from openrlhf_mel.upstream.trainer import MELTrainer

    (tmp_path / "logs").mkdir()
    made = object.__new__(MELTrainer)
    made.mel, made.run_dir = (
        SimpleNamespace(warn_after_empty_steps=3, enable=True, measure_mismatch=True, runtime="cpu"),
        tmp_path,
    )
    made._empty_steps, made._mel_metrics, made._started = 0, {}, 0.0
    made._guard, made._recent, made._evaluations = CollapseGuard(3), RecentTexts(3), {}
    made.args = SimpleNamespace(
        actor=SimpleNamespace(optim="adam"),
        ds=SimpleNamespace(adam_offload=False),
        logger=SimpleNamespace(logging_steps=1),
        rollout=SimpleNamespace(top_p=1.0),
        vllm=SimpleNamespace(enable_sleep=False),
        ckpt=SimpleNamespace(save_steps=float("inf"), path=str(tmp_path), load_enable=True),
    )
    made.wandb_logger = made.tensorboard_logger = None
    made.best_eval_metric_key = "none"
    return made


def warnings(trainer):
    return list(records.read_lines(trainer.run_dir / "logs" / "warnings.jsonl"))


def test_a_yield_that_stays_zero_is_warned_of_with_the_counts(trainer):
    trainer._mel_metrics = {"mel/candidates": 4, "mel/dropped/truncated": 4, "mel/dropped/leak": 0}
    dropped, kept = SimpleNamespace(kept=False), SimpleNamespace(kept=True)
    for step, candidates in enumerate([[dropped], [], [kept], [dropped], [dropped], [], [dropped]], 1):
        trainer._warn_when_empty(candidates, step)
    (warning,) = warnings(trainer)
    assert warning["step"] == 6 and "for 3 steps" in warning["warning"]
    assert "'dropped/truncated': 4" in warning["warning"] and "leak" not in warning["warning"]


def test_a_collapse_is_warned_of_once_and_a_resume_does_not_forget_it(trainer, monkeypatch):
    from openrlhf_mel.method.guard import CollapseGuard
    from openrlhf_mel.upstream import trainer as module

    entropies = [0.5, 0.5, 0.5, 0.4, 0.01, 0.01, 0.01, 0.01]
    for step, entropy in enumerate(entropies, 1):
        trainer.save_logs_and_checkpoints(step, {"policy/entropy": entropy})
    (warning,) = warnings(trainer)
    assert "entropy collapse" in warning["warning"] and "0.5 over steps 1-3" in warning["warning"]
    assert [m["policy/entropy"] for m in records.read_lines(trainer.run_dir / records.METRICS)] == entropies

    states = {
        "global_step": 7, "episode": 1, "total_consumed_prompts": 9, "checkpoint_parallel_dimensions": "DeepSpeed's own",
        "data_loader_state_dict": {"_iterator_finished": False},
    }  # fmt: skip
    monkeypatch.setattr(module._UpstreamTrainer, "init_checkpoint_states", lambda self: states)
    trainer.samples_generator, trainer._guard = SimpleNamespace(step=0), CollapseGuard(3)
    assert trainer.init_checkpoint_states() is states and trainer.samples_generator.step == 7
    assert "checkpoint_parallel_dimensions" not in trainer._restored
    assert [m["step"] for m in records.read_lines(trainer.run_dir / records.METRICS)] == [1, 2, 3, 4, 5, 6, 7]
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


@pytest.mark.parametrize(("runtime", "sleeps", "told"), [("cpu", True, 1), ("cpu", False, 0), ("cuda", True, 0)])
def test_a_sleep_that_frees_nothing_is_told_once(trainer, runtime, sleeps, told):
    trainer.mel.enable, trainer.mel.runtime, trainer.args.vllm.enable_sleep = False, runtime, sleeps
    for step in (0, 0, 3):  # a run that begins, begins anew, and goes on
        trainer._warn_of_settings(step)
    found = [row for row in warnings(trainer) if "--vllm.enable_sleep frees no memory" in row["warning"]]
    assert [row["step"] for row in found] == [0] * told


def test_every_evaluation_leaves_a_line(trainer):
    for _ in range(2):  # the asynchronous trainer evaluates again after a resume
        trainer.save_best_checkpoint({"eval_default_pass1": 0.25}, 4, {})
    assert list(records.read_lines(trainer.run_dir / records.EVALUATIONS)) == [{"step": 4, "eval_default_pass1": 0.25}]


def test_meta_experiences_that_no_optimizer_step_learned_are_told(trainer):
    trainer._warn_when_unlearned(3, 3, {"mel/learned": 3}, 1)
    trainer._warn_when_unlearned(0, 0, {"mel/learned": 0}, 2)
    assert warnings(trainer) == []
    trainer._warn_when_unlearned(3, 3, {"mel/learned": 0}, 3)
    trainer._warn_when_unlearned(3, 2, {"mel/learned": 2}, 4)
    none, some = (row["warning"] for row in warnings(trainer))
    assert "3 of 3 kept meta-experiences were not learned: no optimizer step" in none
    assert "1 of 3 kept meta-experiences were not learned" in some and "shuffled" in some


def test_an_evaluation_that_a_stop_prevented_is_made_up_for_once(trainer, monkeypatch):
    from openrlhf_mel.upstream.trainer import MELSteps

    trainer.args.eval = SimpleNamespace(steps=2, temperature=0.6, n_samples_per_prompt=4)
    trainer.eval_dataloader, trainer.generate_kwargs = object(), {"max_len": 9}
    trainer._restored = {"global_step": 2}
    asked = []
    trainer.evaluate = lambda step, **sampling: asked.append((step, sampling)) or {"eval_default_pass1": 1.0}
    monkeypatch.setattr(MELSteps, "train_step", lambda self, samples, step: ({}, step + 1))
    for step in (2, 3):
        trainer.train_step([], step)
    assert asked == [(2, {"max_len": 9, "temperature": 0.6, "n_samples_per_prompt": 4})]


def test_a_best_that_a_kill_prevented_is_made_up_for_without_another_evaluation(trainer, monkeypatch):
    """The kill came after the evaluation's line. Of that step, and of no other."""
    from openrlhf_mel.upstream.trainer import MELSteps

    trainer.args.eval = SimpleNamespace(steps=2)
    trainer.eval_dataloader, trainer._restored = object(), {"global_step": 4}
    trainer._evaluations = {2: {"eval_default_pass1": 0.5}, 4: {"eval_default_pass1": 0.75}}
    saved = []
    trainer.save_best_checkpoint = lambda *what: saved.append(what)
    monkeypatch.setattr(MELSteps, "train_step", lambda self, samples, step: ({}, step + 1))
    for step in (4, 5, 6):
        trainer.train_step([], step)
    assert saved == [({"eval_default_pass1": 0.75}, 4, {"global_step": 4})]


@pytest.mark.parametrize(("known", "goes_on_with"), [(None, 0.75), (0.5, 0.75), (0.875, 0.875)])
def test_a_resume_knows_the_best_that_was_saved_after_its_own_checkpoint(
    trainer, tmp_path, monkeypatch, known, goes_on_with
):
    from openrlhf_mel.run import checkpoint
    from openrlhf_mel.upstream import trainer as module

    for tag, metric in (("best_global_step2", 0.75), ("global_step2", None)):
        partial = tmp_path / "_actor" / f"{tag}{checkpoint.PARTIAL}"
        partial.mkdir(parents=True)
        for name in ("zero_pp_rank_0_optim_states.pt", "mp_rank_00_model_states.pt"):
            (partial / name).write_bytes(b"x")
        checkpoint.seal(partial, 1, metric, "eval_default_pass1")
    states = {"global_step": 2, "episode": 0, "total_consumed_prompts": 0, "data_loader_state_dict": {}}
    if known is not None:
        states["best_eval_metric_value"] = known
    monkeypatch.setattr(module._UpstreamTrainer, "init_checkpoint_states", lambda self: states)
    trainer.samples_generator = SimpleNamespace(step=0)
    trainer.restore_best_checkpoint_state(trainer.init_checkpoint_states())
    assert trainer.best_eval_metric_value == goes_on_with


def restored(trainer, monkeypatch, step):
    """The trainer as it is when a run begins (step 0), or goes on after `step`."""
    from openrlhf_mel.upstream import trainer as module

    states = {"global_step": step, "episode": 0, "total_consumed_prompts": 0, "data_loader_state_dict": {}}
    monkeypatch.setattr(module._UpstreamTrainer, "init_checkpoint_states", lambda self: states)
    trainer.samples_generator = SimpleNamespace(step=0)
    trainer.init_checkpoint_states()


def test_a_resume_goes_on_counting_empty_steps(trainer, monkeypatch):
    records.append_lines(
        trainer.run_dir / records.METRICS, ({"step": s, "mel/kept": kept} for s, kept in enumerate([0, 3, 0, 0, 0], 1))
    )
    restored(trainer, monkeypatch, 4)
    trainer._warn_when_empty([SimpleNamespace(kept=False)], 5)
    assert "for 3 steps" in warnings(trainer)[0]["warning"]


def test_a_resume_knows_the_ms_of_the_last_steps(trainer, monkeypatch):
    rows = [
        {"step": step, "text": f"Rule {step}: if {number}, then add", "kept": kept}
        for step, number, kept in [(1, 4, True), (2, 5, False), (3, 6, True), (3, 7, True), (4, 8, True), (5, 9, True)]
    ]
    rows[4]["text"] = "another"
    records.append_lines(trainer.run_dir / records.ARCHIVE, rows)
    restored(trainer, monkeypatch, 4)  # cuts step 5 off
    assert trainer._recent.new_share(["rule 12:  if 0, then add", "ANOTHER", "new"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"ds": SimpleNamespace(adam_offload=True)}, "--ds.adam_offload"),
        ({"actor": SimpleNamespace(optim="muon")}, "--actor.optim muon"),
        ({"rollout": SimpleNamespace(top_p=0.9)}, "--rollout.top_p 0.9"),
    ],
)
def test_what_is_not_to_be_had_is_told_once(trainer, monkeypatch, changes, told):
    vars(trainer.args).update(changes)
    for step in (0, 0, 7):  # anew, anew after a kill, resumed
        restored(trainer, monkeypatch, step)
    found = [row["warning"] for row in warnings(trainer)] if told else list(warnings(trainer))
    assert len(found) == bool(told) and all(told in text for text in found)
    trainer.mel.enable = trainer.mel.measure_mismatch = False
    (trainer.run_dir / records.WARNINGS).unlink(missing_ok=True)
    restored(trainer, monkeypatch, 0)
    assert warnings(trainer) == []


def group(*scores):
    from openrlhf_mel.method.experience import Group, Trajectory

    return Group(0, "q", "7", tuple(Trajectory((1,), "", score) for score in scores))


def experience(engine, policy, mask):
    import torch

    one = torch.ones(len(mask))
    engine, policy = (each and torch.tensor(each) for each in (engine, policy))
    return SimpleNamespace(
        rollout_log_probs=engine, action_log_probs=policy, action_mask=torch.tensor(mask), info={"reward": one},
        response_length=one, truncated=one,
    )  # fmt: skip


def test_engine_and_policy_are_compared_over_the_whole_rollout(trainer):
    """Two experiences of other sizes: 0.1 and 0.3 nats in the one, 0.5 in the other; what is masked does not count."""
    rollout = [
        experience([[-1.0, -1.0], [-1.0, -1.0]], [[-0.9, -1.3], [-9.0, -9.0]], [[1, 1], [0, 0]]),
        experience([[-2.0, -2.0, -2.0]], [[-9.0, -2.5, -9.0]], [[0, 1, 0]]),
    ]
    stats = trainer._compute_rollout_stats(rollout)
    assert stats["rollout/logprob_diff_mean"] == pytest.approx(0.9 / 3, rel=1e-5)
    assert stats["rollout/logprob_diff_max"] == pytest.approx(0.5, rel=1e-5)
    assert stats["rollout/kl_k3"] == pytest.approx(sum(math.exp(d) - 1 - d for d in (0.1, -0.3, -0.5)) / 3, rel=1e-5)
    assert stats["rollout/num_samples"] == 3  # upstream's own are there


def test_engine_and_policy_are_not_compared_where_that_says_nothing(trainer):
    def compared(*rollout):
        return any("logprob" in key or "k3" in key for key in trainer._compute_rollout_stats(rollout))

    both = experience([[-1.0]], [[-0.9]], [[1]])
    assert compared(both) and not compared(experience(None, [[-0.9]], [[1]]))  # an agent without log-probs
    trainer.args.rollout.top_p = 0.9
    assert not compared(both)
    trainer.args.rollout.top_p, trainer.mel.measure_mismatch = 1.0, False
    assert not compared(both)


def test_engines_are_made_to_return_the_log_probs_that_were_sampled_from():
    from openrlhf.trainer.ray import create_vllm_engines

    from openrlhf_mel.upstream import rollout_log_probs

    names = list(inspect.signature(create_vllm_engines).parameters)

    def create(*args, **kwargs):
        made.update(zip(names, args, strict=False), **kwargs)

    create.__signature__, made = inspect.signature(create_vllm_engines), {}
    given = [object() for _ in names[:11]]  # as upstream's entry gives them: its own choice is the twelfth
    rollout_log_probs.returning(create)(*given, None, agent_func_path="agent.py")
    assert made.pop("logprobs_mode") == "processed_logprobs" and made.pop("agent_func_path") == "agent.py"
    assert made == dict(zip(names, given, strict=False))


def test_a_reward_models_reward_is_upstreams(trainer):
    """The response itself has no score then; one that could not be judged counts 0."""
    trainer.mel.enable = False
    assert trainer._step_metrics([group(1.0, None)], [], {"rollout/reward_mean": 0.1})["reward_mean"] == 0.5
    assert trainer._step_metrics([group(None, None)], [], {"rollout/reward_mean": 0.1})["reward_mean"] == 0.1
    assert "reward_mean" not in trainer._step_metrics([group(None, None)], [], {})


@pytest.mark.parametrize(("kept", "left_out"), [([1, 1], 0), ([3, 1], 2), ([1], 1), ([], 0)])
def test_ms_that_the_shuffled_control_leaves_out_are_counted_and_told(trainer, monkeypatch, kept, left_out):
    from openrlhf_mel.method.experience import ContrastivePair, Group, MetaExperience, Trajectory
    from openrlhf_mel.upstream import trainer as module

    right, wrong = Trajectory((1,), "r", 1.0), Trajectory((2,), "w", 0.0)
    groups = [Group(0, f"q{i}", "7", (right, wrong)) for i in range(2)]
    ms = [
        MetaExperience(groups[i], ContrastivePair(right, wrong), (3,), (i, j), f"M {i} {j}")
        for i, count in enumerate(kept)
        for j in range(count)
    ]
    samples = [SimpleNamespace(group=g, meta_experiences=[m for m in ms if m.group is g]) for g in groups]
    taken = []
    trainer.mel = SimpleNamespace(
        enable=True, experience="shuffled", seed=0, nll_coef=1.0, nll_schedule="constant", nll_warmup_steps=0,
        nll_end_step=None, nll_end_coef=0.0, correct_at=1.0, warn_after_empty_steps=9,
    )  # fmt: skip
    trainer._expected_steps = 1
    trainer.actor_model_group = SimpleNamespace(async_run_method=lambda name, rows, coefficient: taken.extend(rows))
    monkeypatch.setattr(module.batches, "whole", lambda samples, args: samples)
    monkeypatch.setattr(module.ray, "get", lambda made: made)
    learned = {"rollout/reward_mean": 0.5}
    monkeypatch.setattr(
        module._UpstreamTrainer, "train_step", lambda self, s, step: ({**learned, "mel/learned": len(taken)}, step + 1)
    )
    module.MELSteps.train_step(trainer, samples, 0)
    assert trainer._mel_metrics["mel/kept"] - len(taken) == trainer._mel_metrics["mel/shuffled_left_out"] == left_out
    assert len(warnings(trainer)) == bool(left_out) and all("shuffled" in w["warning"] for w in warnings(trainer))
