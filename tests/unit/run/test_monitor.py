"""The records and warnings of a run's steps, also after a resume."""

from types import SimpleNamespace

import pytest

from openrlhf_mel import disk
from openrlhf_mel.method.experience import ContrastivePair, Group, MetaExperience, Trajectory
from openrlhf_mel.method.group_record import GroupRecord, RolloutInfo
from openrlhf_mel.run import records
from openrlhf_mel.run.monitor import RunMonitor, Update
from openrlhf_mel.settings.mel_options import MELConfig

RIGHT, WRONG = Trajectory((1,), "r", 1.0), Trajectory((2, 3), "w", 0.0)


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a process's monitor; later ones are a resumed run's, in the same folder."""
    (tmp_path / "logs").mkdir()

    def made(**options):
        said = []
        monitor = RunMonitor(
            MELConfig(**({"guard_window": 3, "warn_after_empty_steps": 3} | options)), tmp_path, said.append
        )
        return SimpleNamespace(monitor=monitor, said=said)

    return made


def read(run, name):
    return list(disk.read_lines(run.monitor.folder / name))


def warnings(run):
    """Return the written warnings; check that each was also shown."""
    found = read(run, records.WARNINGS)
    assert [row["warning"] for row in found][-len(run.said) :] == run.said or not run.said
    return found


def group(*scores):
    return Group(0, "q", "7", tuple(Trajectory((1,), "", score) for score in scores))


def record(*reasons, texts=None, rollout=None, question="q"):
    """Return the record of a mixed group with one candidate per drop reason; None: kept."""
    own = Group(0, question, "7", (RIGHT, WRONG))
    texts = texts or [f"M {i}" for i, _ in enumerate(reasons)]
    ms = [
        MetaExperience(own, ContrastivePair(RIGHT, WRONG), (3,), (4,), text, leaked=False, reason=reason)
        for reason, text in zip(reasons, texts, strict=True)
    ]
    return GroupRecord(own, tuple(ms), rollout)


def update(*made, used=None, learned=None, rows=None, coefficient=1.0, **status):
    used = made if used is None else used
    kept = sum(m.kept for each in used for m in each.candidates)
    status = status | {"mel/learned": kept if learned is None else learned}
    return Update(made, used, kept if rows is None else rows, coefficient, status if used else {})


def test_a_yield_that_stays_zero_is_warned_of_with_the_counts(make):
    run = make()
    dropped, none, kept = record("truncated"), record(), record(None)
    for step, each in enumerate([dropped, none, kept, dropped, dropped, none, dropped], 1):
        run.monitor.record_update(step, update(each, record(*["truncated"] * 3) if step == 6 else none))
    (warning,) = warnings(run)
    assert warning["step"] == 6 and "for 3 steps" in warning["warning"]
    assert "'dropped/truncated': 3" in warning["warning"] and "leak" not in warning["warning"]


def test_a_resume_goes_on_counting_empty_steps(make):
    run = make()
    rows = ({"step": s, "mel/kept": kept} for s, kept in enumerate([0, 3, 0, 0, 0], 1))
    disk.append_lines(run.monitor.folder / records.METRICS, rows)
    run.monitor.restore(4)
    run.monitor.record_update(5, update(record("leak")))
    assert "for 3 steps" in warnings(run)[0]["warning"]


def test_a_run_without_mel_is_not_warned_of_empty_steps(make):
    run = make(enable=False)
    for step in range(1, 5):
        run.monitor.record_update(step, update(record()))
    assert warnings(run) == [] and not any(key.startswith("mel/") for key in run.monitor.record_step(5, {}))


def test_a_collapse_is_warned_of_once_and_a_resume_does_not_forget_it(make):
    entropies = [0.5, 0.5, 0.5, 0.4, 0.01, 0.01, 0.01, 0.01]
    run = make()
    for step, entropy in enumerate(entropies, 1):
        run.monitor.record_step(step, {"policy/entropy": entropy})
    (warning,) = warnings(run)
    assert "entropy collapse" in warning["warning"] and "0.5 over steps 1-3" in warning["warning"]
    assert [m["policy/entropy"] for m in read(run, records.METRICS)] == entropies

    resumed = make()
    resumed.monitor.restore(7)
    assert [m["step"] for m in read(resumed, records.METRICS)] == [1, 2, 3, 4, 5, 6, 7]
    resumed.monitor.record_step(8, {"policy/entropy": 0.01})
    assert len(warnings(resumed)) == 1 and resumed.said == []

    earlier = make()
    earlier.monitor.restore(5)  # before the warning, which needs all six values
    earlier.monitor.record_step(6, {"policy/entropy": 0.01})
    assert warnings(earlier) == [warning] and earlier.said == [warning["warning"]]


def test_a_resume_knows_the_ms_of_the_last_steps(make):
    run = make()
    rows = [
        {"step": step, "text": f"Rule {step}: if {number}, then add", "kept": kept}
        for step, number, kept in [(1, 4, True), (2, 5, False), (3, 6, True), (3, 7, True), (4, 8, True), (5, 9, True)]
    ]
    rows[4]["text"] = "another"
    disk.append_lines(run.monitor.folder / records.ARCHIVE, rows)
    run.monitor.restore(4)  # cuts step 5 off
    texts = ["rule 12:  if 0, then add", "ANOTHER", "new"]
    run.monitor.record_update(5, update(record(None, None, None, texts=texts)))
    assert run.monitor.record_step(5, {})["mel/new_share"] == pytest.approx(1 / 3)
    assert [row["step"] for row in read(run, records.ARCHIVE)] == [1, 2, 3, 3, 4, 5, 5, 5]


def test_a_run_that_begins_is_warned_once(make):
    """The run starts at step 0, starts again after a kill, then resumes after step 7."""
    for step in (0, 0, 7):
        run = make()
        run.monitor.restore(step)
        run.monitor.begin(step, ["norms are not logged", "sleep in name only"])
    assert [(row["step"], row["warning"]) for row in read(run, records.WARNINGS)] == [
        (0, "norms are not logged"), (0, "sleep in name only"),
    ]  # fmt: skip
    make().monitor.begin(0, [])


def test_a_run_that_goes_on_is_not_warned_of_its_beginning(make):
    run = make()
    run.monitor.begin(7, ["norms are not logged"])
    assert warnings(run) == []


def test_every_evaluation_leaves_a_line(make):
    run = make()
    for value in (0.25, 0.5):  # the asynchronous trainer evaluates again after a resume
        run.monitor.record_evaluation(4, {"eval_default_pass1": value})
    assert read(run, records.EVALUATIONS) == [{"step": 4, "eval_default_pass1": 0.25}]
    run.monitor.record_evaluation(6, {"eval_default_pass1": 0.75})
    resumed = make()
    resumed.monitor.restore(5)
    assert resumed.monitor.evaluations == {4: {"eval_default_pass1": 0.25}}
    assert [row["step"] for row in read(resumed, records.EVALUATIONS)] == [4]


def test_meta_experiences_that_no_optimizer_step_learned_are_told(make):
    run, three = make(), record(None, None, None)
    run.monitor.record_update(1, update(three, learned=3))
    run.monitor.record_update(2, update(record(), learned=0))
    run.monitor.record_update(2, update(three, learned=0, coefficient=0.0))  # coefficient 0 is intended
    assert warnings(run) == []
    run.monitor.record_update(3, update(three, learned=0))
    run.monitor.record_update(4, update(three, learned=2, rows=2))
    none, some = (row["warning"] for row in warnings(run))
    assert "3 of 3 kept meta-experiences were not learned: no optimizer step" in none
    assert "1 of 3 kept meta-experiences were not learned" in some and "shuffled" in some


@pytest.mark.parametrize(("kept", "rows"), [(2, 2), (4, 2), (1, 0), (0, 0)])
def test_ms_that_the_shuffled_control_leaves_out_are_counted_and_told(make, kept, rows):
    run = make(experience="shuffled")
    run.monitor.record_update(1, update(record(*[None] * kept), record("leak"), rows=rows, learned=rows))
    assert run.monitor.record_step(1, {})["mel/shuffled_left_out"] == kept - rows
    assert len(warnings(run)) == (kept > rows) and all("shuffled" in w["warning"] for w in warnings(run))


def test_groups_that_are_left_out_are_told_and_their_ms_do_not_count_as_unlearned(make):
    run, first, second = make(), record(None), record(None, question="other")
    run.monitor.record_update(3, update(first, second, used=[first]))
    (warning,) = warnings(run)
    assert "step 3: 1 of 2 questions were left out, with their meta-experiences" in warning["warning"]
    row = run.monitor.record_step(3, {})
    assert row["rollout/groups_left_out"] == 1 and row["mel/kept"] == 2


def test_a_reward_models_reward_is_upstreams(make):
    """With a reward model no response has a score; otherwise a response that could not be judged counts as 0."""

    def logged(*scores, **status):
        run = make(enable=False)
        run.monitor.record_update(1, update(GroupRecord(group(*scores)), **status))
        return run.monitor.record_step(1, {})

    theirs = {"rollout/reward_mean": 0.1}
    assert logged(1.0, None, **theirs)["reward_mean"] == 0.5
    assert logged(None, None, **theirs)["reward_mean"] == 0.1
    assert "reward_mean" not in logged(None, None)


def test_a_steps_line_has_the_trainers_numbers_and_its_own(make):
    run = make()
    infos = RolloutInfo(9, 3.0, 1.0), RolloutInfo(9, 0.5, 0.25)  # two rollouts ended in the buffer before this step
    made = record(None, "leak", rollout=infos[0]), record(rollout=infos[1])
    run.monitor.record_update(2, update(*made, coefficient=0.5))
    logs = run.monitor.record_step(2, {"loss/policy": 0.125, "generated_samples": ["text", 1.0]})
    (row,) = read(run, records.METRICS)
    assert logs["generated_samples"] == ["text", 1.0] and "generated_samples" not in row and "seconds" not in logs
    assert {key: value for key, value in logs.items() if key != "generated_samples"} == {
        key: value for key, value in row.items() if key not in ("step", "seconds")
    }
    expected = {
        "loss/policy": 0.125, "rollout/tokens": 6, "reward_mean": 0.5, "rollout/groups_left_out": 0, "mel/nll_coef": 0.5,
        "mel/candidates": 2, "mel/kept": 1, "mel/retention_ratio": 0.5, "mel/dropped/leak": 1,
        "timing/mel_construction": 3.5, "timing/mel_construction_tail": 1.25, "step": 2,
    }  # fmt: skip
    assert expected.items() <= row.items() and row["seconds"] >= 0
    archive = read(run, records.ARCHIVE)
    assert [(m["step"], m["text"], m["kept"]) for m in archive] == [(2, "M 0", True), (2, "M 1", False)]


def test_a_step_whose_constructions_all_go_on_is_not_empty(make):
    run = make(warn_after_empty_steps=1)
    run.monitor.record_update(1, update(record(rollout=RolloutInfo(9, carried_over=3))))
    run.monitor.record_step(1, {})
    run = make(warn_after_empty_steps=1)
    run.monitor.restore(1)
    run.monitor.record_update(2, update(record("leak", rollout=RolloutInfo(9, carried_over=3))))
    (warning,) = warnings(run)
    assert "for 1 steps" in warning["warning"]


def test_carried_ms_count_in_the_step_in_which_their_construction_ends(make):
    def carried(text, reason=None):
        (m,) = record(reason, texts=[text], question="earlier").candidates
        m.carries, m.replay_tokens = 1, 10
        return m

    run = make()
    info = RolloutInfo(
        9, 3.0, 1.0, carried=(carried("M old"), carried("M lost", "replay_failed")), carried_over=4, carried_wait_s=0.5,
        rewritten_tokens=7, idle=0.25,
    )  # fmt: skip
    made = record(None, rollout=info), record()
    run.monitor.record_update(5, update(*made, learned=2, rows=2))
    row = run.monitor.record_step(5, {})
    expected = {
        "mel/candidates": 3, "mel/kept": 2, "mel/groups_mixed": 2, "mel/tokens": 23, "mel/carried_over": 4,
        "mel/rewritten_tokens": 7, "mel/overhead": (23 + 7) / 6, "timing/carried_wait": 0.5,
        "timing/generation_idle": 0.25,
    }  # fmt: skip
    assert expected.items() <= row.items() and not warnings(run)
    archive = [(m["step"], m["drawn_step"], m["text"], m["kept"]) for m in read(run, records.ARCHIVE)]
    assert archive == [(5, 1, "M old", True), (5, 1, "M lost", False), (5, 5, "M 0", True)]


def test_idleness_is_told_of_a_run_without_ms_too(make):
    run = make(enable=False)
    run.monitor.record_update(1, update(record(rollout=RolloutInfo(9, idle=0.125))))
    row = run.monitor.record_step(1, {})
    assert row["timing/generation_idle"] == 0.125 and not any(key.startswith("mel/") for key in row)
