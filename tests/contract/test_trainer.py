"""MEL's trainer on upstream's real class and constructor; only the policy actors are a stand-in."""

import dataclasses
import inspect
import math
from types import SimpleNamespace

import pytest
from toy_strategy import MODEL, strategy

from openrlhf_mel import disk
from openrlhf_mel.run import carried_experiences, records

pytestmark = pytest.mark.timeout(120)


class Policy:
    """Stand-in for upstream's group of policy actors: records its calls."""

    def __init__(self):
        self.calls = []

    def async_run_method(self, method_name, **kwargs):
        self.calls.append((method_name, kwargs))
        return []


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return a function that constructs a trainer of the toy task from `--flags`."""
    from openrlhf_mel.upstream import trainer as module

    monkeypatch.setattr(module.ray, "get", lambda made: made)
    (tmp_path / "logs").mkdir()

    def made(*more):
        return module.MELTrainer(
            MODEL, strategy(tmp_path, *more), Policy(), None, None, None, [], max_len=9, n_samples_per_prompt=8
        )

    return made


def restored(trainer, monkeypatch, **states):
    """Bring the trainer into the state of a run that begins (step 0) or resumes after a step."""
    from openrlhf_mel.upstream import trainer as module

    states = {"global_step": 0, "episode": 0, "total_consumed_prompts": 0, "data_loader_state_dict": {}} | states
    monkeypatch.setattr(module._UpstreamTrainer, "init_checkpoint_states", lambda self: states)
    assert trainer.init_checkpoint_states() is states
    return states


def warnings(trainer):
    return list(disk.read_lines(trainer.run_dir / records.WARNINGS))


def test_a_resume_cuts_the_log_and_goes_on_from_the_step(make, monkeypatch):
    trainer = make()
    for step in range(1, 9):
        trainer.save_logs_and_checkpoints(step, {"policy/entropy": 0.5})
    trainer = make()
    restored(
        trainer, monkeypatch, global_step=7, total_consumed_prompts=9,
        checkpoint_parallel_dimensions="DeepSpeed's own", data_loader_state_dict={"_iterator_finished": False},
    )  # fmt: skip
    assert trainer.samples_generator.rollouts == 7
    assert trainer._restored["global_step"] == 7 and "checkpoint_parallel_dimensions" not in trainer._restored
    assert [m["step"] for m in disk.read_lines(trainer.run_dir / records.METRICS)] == [1, 2, 3, 4, 5, 6, 7]
    assert trainer._restored["episode"] == 0


def test_a_resume_from_the_datas_end_begins_the_next_episode(make, monkeypatch):
    """torchdata's loader marks the end when the last draw finds fewer questions than requested."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    loader = StatefulDataLoader(list(range(5)), batch_size=1)
    drawn = iter(loader)
    for _ in range(5):
        next(drawn)
    before = loader.state_dict()
    assert next(drawn, None) is None
    after = loader.state_dict()
    trainer = make()
    for saved, episode in ((before, 0), (after, 1)):
        assert restored(trainer, monkeypatch, global_step=3, data_loader_state_dict=saved)["episode"] == episode


def test_settings_that_leave_something_unwatched_are_told_when_the_run_begins(make, monkeypatch):
    trainer = make("--rollout.top_p=0.9")
    restored(trainer, monkeypatch)
    (warning,) = warnings(trainer)
    assert warning["step"] == 0 and "--rollout.top_p 0.9" in warning["warning"]


def test_an_evaluation_leaves_a_line_and_upstream_saves_the_best(make):
    trainer = make()
    trainer.save_best_checkpoint({"eval_default_pass1": 0.25}, 4, {})
    assert list(disk.read_lines(trainer.run_dir / records.EVALUATIONS)) == [{"step": 4, "eval_default_pass1": 0.25}]
    ((method, saved),) = trainer.actor_model_group.calls
    assert method == "save_checkpoint" and saved["tag"] == "best_global_step4"


@pytest.fixture
def evaluating(make, monkeypatch):
    """A trainer that evaluates every second step; its training steps do nothing."""
    from openrlhf_mel.upstream.trainer import MELSteps

    trainer = make(
        "--eval.dataset=data/toy/test.jsonl",
        "--eval.steps=2",
        "--eval.temperature=0.6",
        "--eval.n_samples_per_prompt=4",
    )
    monkeypatch.setattr(MELSteps, "train_step", lambda self, samples, step: ({}, step + 1))
    return trainer


def test_an_evaluation_that_a_stop_prevented_is_made_up_for_once(evaluating, monkeypatch):
    restored(evaluating, monkeypatch, global_step=2)
    asked = []
    evaluating.evaluate = lambda step, **sampling: asked.append((step, sampling)) or {"eval_default_pass1": 1.0}
    for step in (2, 3):
        evaluating.train_step([], step)
    assert asked == [(2, {"max_len": 9, "temperature": 0.6, "n_samples_per_prompt": 4})]


def test_a_best_that_a_kill_prevented_is_made_up_for_without_another_evaluation(evaluating, monkeypatch):
    """The kill came after the evaluation's line. Only that step's best checkpoint is saved."""
    lines = [{"step": 2, "eval_default_pass1": 0.5}, {"step": 4, "eval_default_pass1": 0.75}]
    disk.append_lines(evaluating.run_dir / records.EVALUATIONS, lines)
    restored(evaluating, monkeypatch, global_step=4)
    for step in (4, 5, 6):
        evaluating.train_step([], step)
    ((method, saved),) = evaluating.actor_model_group.calls
    assert method == "save_checkpoint" and saved["tag"] == "best_global_step4" and saved["metric_value"] == 0.75
    assert saved["client_states"]["global_step"] == 4
    assert list(disk.read_lines(evaluating.run_dir / records.EVALUATIONS)) == lines


@pytest.mark.parametrize(("known", "goes_on_with"), [(None, 0.75), (0.5, 0.75), (0.875, 0.875)])
def test_a_resume_knows_the_best_that_was_saved_after_its_own_checkpoint(
    make, tmp_path, monkeypatch, known, goes_on_with
):
    from openrlhf_mel.run import checkpoint

    trainer = make()
    folder = tmp_path / "checkpoints" / "_actor"
    assert str(folder.parent) == trainer.args.ckpt.path
    for tag, metric in (("best_global_step2", 0.75), ("global_step2", None)):
        partial = folder / f"{tag}{checkpoint.PARTIAL}"
        partial.mkdir(parents=True)
        for name in ("zero_pp_rank_0_optim_states.pt", "mp_rank_00_model_states.pt"):
            (partial / name).write_bytes(b"x")
        checkpoint.seal(partial, 1, metric, "eval_default_pass1")
    states = {} if known is None else {"best_eval_metric_value": known}
    trainer.restore_best_checkpoint_state(restored(trainer, monkeypatch, global_step=2, **states))
    assert trainer.best_eval_metric_value == goes_on_with


def experience(engine, policy, mask):
    import torch

    one = torch.ones(len(mask))
    engine, policy = (each and torch.tensor(each) for each in (engine, policy))
    return SimpleNamespace(
        rollout_log_probs=engine, action_log_probs=policy, action_mask=torch.tensor(mask), info={"reward": one},
        response_length=one, truncated=one,
    )  # fmt: skip


def test_engine_and_policy_are_compared_over_the_whole_rollout(make):
    """Two experiences of different size: 0.1 and 0.3 nats in one, 0.5 in the other; masked tokens do not count."""
    rollout = [
        experience([[-1.0, -1.0], [-1.0, -1.0]], [[-0.9, -1.3], [-9.0, -9.0]], [[1, 1], [0, 0]]),
        experience([[-2.0, -2.0, -2.0]], [[-9.0, -2.5, -9.0]], [[0, 1, 0]]),
    ]
    stats = make()._compute_rollout_stats(rollout)
    assert stats["rollout/logprob_diff_mean"] == pytest.approx(0.9 / 3, rel=1e-5)
    assert stats["rollout/logprob_diff_max"] == pytest.approx(0.5, rel=1e-5)
    assert stats["rollout/kl_k3"] == pytest.approx(sum(math.exp(d) - 1 - d for d in (0.1, -0.3, -0.5)) / 3, rel=1e-5)
    assert stats["rollout/num_samples"] == 3  # upstream's own statistics are kept


def test_engine_and_policy_are_not_compared_where_that_says_nothing(make):
    def compared(rollout, *more):
        return any("logprob" in key or "k3" in key for key in make(*more)._compute_rollout_stats([rollout]))

    both = experience([[-1.0]], [[-0.9]], [[1]])
    assert compared(both) and not compared(experience(None, [[-0.9]], [[1]]))  # an agent without log-probs
    assert not compared(both, "--rollout.top_p=0.9")
    assert not compared(both, "--mel.measure_mismatch=false")


def test_engines_are_made_to_return_the_log_probs_that_were_sampled_from():
    from openrlhf.trainer.ray import create_vllm_engines

    from openrlhf_mel.upstream import rollout_log_probs

    names = list(inspect.signature(create_vllm_engines).parameters)

    def create(*args, **kwargs):
        made.update(zip(names, args, strict=False), **kwargs)

    create.__signature__, made = inspect.signature(create_vllm_engines), {}
    given = [object() for _ in names[:11]]  # as upstream's entry passes them: the twelfth is its own choice
    rollout_log_probs.returning(create)(*given, None, agent_func_path="agent.py")
    assert made.pop("logprobs_mode") == "processed_logprobs" and made.pop("agent_func_path") == "agent.py"
    assert made == dict(zip(names, given, strict=False))


def rollout(*kept):
    """Return 64 samples in 8 groups; the first groups have `kept` Ms each, and every M has its own ids."""
    from openrlhf_mel.method.experience import ContrastivePair, Group, MetaExperience, Trajectory
    from openrlhf_mel.method.group_record import GroupRecord, RolloutInfo
    from openrlhf_mel.upstream import group_sample
    from openrlhf_mel.upstream.group_sample import GroupSample

    right, wrong = Trajectory((1,), "r", 1.0), Trajectory((2,), "w", 0.0)
    samples = []
    for i, count in enumerate(kept + (0,) * (8 - len(kept))):
        group = Group(0, f"q{i}", "7", (right, wrong))
        ms = [MetaExperience(group, ContrastivePair(right, wrong), (3,), (i, j), f"M {i} {j}") for j in range(count)]
        own = [GroupSample() for _ in range(8)]
        group_sample.attach(own[0], GroupRecord(group, tuple(ms), None if i else RolloutInfo(40, 3.0, 1.0)))
        samples += own
    return samples


@pytest.fixture
def learning(make, monkeypatch):
    """Return a function that makes a trainer; upstream's step is replaced by one that learns all given Ms."""
    from openrlhf_mel.upstream import trainer as module

    def made(*more):
        trainer = make(*more)
        monkeypatch.setattr(module._UpstreamTrainer, "train_step", lambda self, samples, step: (status(), step + 1))

        def status():
            taken = [kwargs["rows"] for name, kwargs in trainer.actor_model_group.calls if name == "take_rows"]
            return {"rollout/reward_mean": 0.5, "mel/learned": len(taken[-1])}

        return trainer

    return made


def logged(trainer, step):
    trainer.save_logs_and_checkpoints(step, {})
    return list(disk.read_lines(trainer.run_dir / records.METRICS))[-1]


@pytest.mark.parametrize(("kept", "left_out"), [([1, 1], 0), ([3, 1], 2), ([1], 1), ([], 0)])
def test_ms_that_the_shuffled_control_leaves_out_are_counted_and_told(learning, kept, left_out):
    trainer = learning("--mel.experience=shuffled", "--mel.warn_after_empty_steps=9")
    trainer.train_step(rollout(*kept), 0)
    ((_, taken),) = trainer.actor_model_group.calls
    row = logged(trainer, 1)
    assert row["mel/kept"] - len(taken["rows"]) == row["mel/shuffled_left_out"] == left_out
    assert len(warnings(trainer)) == bool(left_out) and all("shuffled" in w["warning"] for w in warnings(trainer))


def test_a_steps_kept_ms_go_to_the_policy_with_the_schedules_coefficient(learning):
    """The run expects 40 steps; a dropped M stays in the archive."""
    trainer = learning("--mel.nll_schedule=linear")
    samples = rollout(2, 1)
    samples[0].record.candidates[1].reason = "leak"
    status, step = trainer.train_step(samples, 20)
    ((name, taken),) = trainer.actor_model_group.calls
    assert name == "take_rows" and step == 21 and status["mel/learned"] == 2
    assert [(row.context_ids, row.token_ids, row.question) for row in taken["rows"]] == [
        ((3,), (0, 0), "q0"), ((3,), (1, 0), "q1"),
    ]  # fmt: skip
    assert taken["coefficient"] == pytest.approx(1 - 20 / 39)
    row = logged(trainer, 21)
    assert row["mel/nll_coef"] == taken["coefficient"] and row["mel/retention_ratio"] == pytest.approx(2 / 3)
    assert (row["timing/mel_construction"], row["timing/mel_construction_tail"]) == (3.0, 1.0)
    archive = list(disk.read_lines(trainer.run_dir / records.ARCHIVE))
    assert [(m["step"], m["text"], m["kept"]) for m in archive] == [
        (21, "M 0 0", True), (21, "M 0 1", False), (21, "M 1 0", True),
    ]  # fmt: skip


def test_ms_of_earlier_rollouts_are_learned_with_the_steps_own(learning):
    samples = rollout(1)
    (old,) = (dataclasses.replace(m, group=dataclasses.replace(m.group, question="old"), carries=1)
              for m in samples[0].record.candidates)  # fmt: skip
    info = dataclasses.replace(samples[0].record.rollout, carried=(old,))
    samples[0].record = dataclasses.replace(samples[0].record, rollout=info)
    trainer = learning()
    trainer.train_step(samples, 4)
    ((_, taken),) = trainer.actor_model_group.calls
    assert [row.question for row in taken["rows"]] == ["old", "q0"]
    assert logged(trainer, 5)["mel/kept"] == 2 and not warnings(trainer)


def test_a_checkpoint_notes_the_carried_ms_as_they_are_after_its_step(make, tmp_path):
    """The next rollout, in which a stop may save this step, changes them."""
    (m,) = rollout(1)[0].record.candidates
    m.carries = 1
    trainer = make("--ckpt.save_steps=1")
    trainer.samples_generator.carried = [m]
    trainer.save_logs_and_checkpoints(3, {}, {"global_step": 3})
    m.text, m.token_ids, trainer.samples_generator.carried = "M changed", (9,), []
    ((_, saved),) = trainer.actor_model_group.calls
    (row,) = saved["client_states"][carried_experiences.STATE]
    assert (row["text"], row["token_ids"], row["carries"]) == ("M 0 0", (0, 0), 1)


def test_what_upstream_cannot_share_out_is_neither_trained_on_nor_learned(learning):
    """With micro-batches of 64, 8 groups of 8 make one, 7 make none."""
    trainer = learning()
    assert trainer.train_step(rollout(1)[:56], 0) == ({}, 1)
    assert trainer.actor_model_group.calls == []
    row = logged(trainer, 1)
    assert row["rollout/groups_left_out"] == 7 and row["mel/kept"] == 1
    assert ["7 of 7 questions were left out" in w["warning"] for w in warnings(trainer)] == [True]


def test_upstream_copies_no_record_into_what_it_trains_on():
    """Upstream concatenates only the fields of `Experience`; a value of an unknown type would end the run."""
    import torch
    from openrlhf.trainer.ppo_utils.experience import Experience

    from openrlhf_mel.upstream import group_sample

    def sample(token):
        made = Experience(
            sequences=torch.tensor([[token]]), index=[token], prompts=["p"], info={"reward": torch.ones(1)}
        )
        return group_sample.group_sample(made)

    first, second = sample(1), sample(2)
    group_sample.attach(first, rollout()[0].record)
    together = Experience.concat_experiences([first, second], 0)
    assert type(together) is Experience and together.sequences.tolist() == [[1], [2]] and together.index == [1, 2]
    assert group_sample.records_of([first, second]) == [first.record]


def test_a_group_of_two_questions_is_refused_with_what_differs():
    from openrlhf_mel.upstream.group_sample import common_prompt

    long = "Solve this. " * 30
    responses = [{"prompt": long + "1 + 1", "label": "2"}] * 3 + [{"prompt": long + "1 + 2", "label": "2"}]
    assert common_prompt(responses[:3]) == long + "1 + 1"
    with pytest.raises(
        ValueError, match=r"a group of 4 responses: the prompts of responses 0 and 3 differ from character 364 on"
    ):
        common_prompt(responses)
