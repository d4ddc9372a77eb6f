"""guard.py: every sign appears in a collapsing series, none in healthy ones; its messages and its memory."""

import json
import math
import pickle
import random
import re
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_mel.method import guard
from openrlhf_mel.method.guard import CollapseGuard

WINDOW = 10
START = {
    "policy/entropy": 0.3,
    "rollout/response_length_mean": 700.0,
    "rollout/truncated_rate": 0.05,
    "mel/distinct_share": 0.97,
    "mel/new_share": 0.95,
    "mel/length_mean": 300.0,
    "mel/nll": 0.4,
    "grad_norm/nll": 0.5,
    "grad_norm/policy": 0.3,
    "loss/policy": 0.01,
    "loss/nll": 0.4,
    "actor_grad_norm": 0.6,
    "reward_mean": 0.37,
}


def healthy(steps: int = 400, seed: int = 0, **ends: float) -> list[dict]:
    """Return rows with 15% noise; each quantity moves linearly from `START` to `ends`, or stays."""
    rng = random.Random(seed)
    rows = []
    for step in range(1, steps + 1):
        row = {"step": step}
        for key, start in START.items():
            level = start + (ends.get(key, start) - start) * (step - 1) / (steps - 1)
            row[key] = level * rng.lognormvariate(0, 0.15)
        row["mel/distinct_share"] = min(1.0, row["mel/distinct_share"])
        rows.append(row)
    return rows


def drifting(key: str, end: float) -> list[dict]:
    """Return rows that are healthy for 60 steps; then `key` moves to `end` within 40 steps and stays."""
    rows = healthy(150)
    for row in rows[60:]:
        gone = min(1.0, (row["step"] - 60) / 40)
        row[key] *= (START[key] * (1 - gone) + end * gone) / START[key]
    return rows


def warnings(rows: list[dict], window: int = WINDOW) -> list[str]:
    watch = CollapseGuard(window)
    return [text for row in rows for text in watch.observe(row)]


# Drifting quantity, end value, warning, and its documented limit: reference times the first number plus the second.
COLLAPSES = [
    ("policy/entropy", 0.02, "entropy collapse", 0.2, 0),
    ("policy/entropy", 1.5, "entropy explosion", 3, 0),
    ("rollout/response_length_mean", 80, "responses shrink", 1 / 3, 0),
    ("rollout/response_length_mean", 5000, "responses swell", 4, 0),
    ("rollout/truncated_rate", 0.5, "cut off", 1, 0.2),
    ("mel/distinct_share", 0.1, "copies of each other", 0, 0.5),
    ("mel/new_share", 0.05, "copies of earlier ones", 1 / 3, 0),
    ("mel/length_mean", 40, "Ms shrink", 1 / 3, 0),
    ("mel/nll", 2.5, "less likely", 3, 0),
    ("mel/nll", 0.01, "recited", 0.1, 0),
    ("grad_norm/nll", 9, "swamps the policy", 0, 10),
    ("grad_norm/policy", 0.01, "swamps the policy", 0, 10),
]


AT_ONCE = ["the engine does not sample from the policy"]


def test_every_sign_has_its_collapse():
    texts = [*(text for _, _, text, *_ in COLLAPSES), *AT_ONCE]
    assert all(any(text in sign.meaning for text in texts) for sign in guard.SIGNS)
    assert all(any(text in sign.meaning for sign in guard.SIGNS) for text in texts)


@pytest.mark.parametrize(("key", "end", "text", "times", "plus"), COLLAPSES)
def test_a_collapse_is_told_once_as_soon_as_the_medians_say_so(key, end, text, times, plus):
    rows = drifting(key, end)
    [told] = warnings(rows)
    if key.startswith("grad_norm"):
        values, up = [row["grad_norm/nll"] / row["grad_norm/policy"] for row in rows], True
    else:
        values, up = [row[key] for row in rows], end > START[key]
    reference = median(values[:WINDOW])
    limit = times * reference + plus
    past = [value > limit if up else value < limit for value in values]
    now = {step: median(values[step - WINDOW : step]) for step in range(WINDOW, len(values) + 1)}
    step = next(step for step, value in now.items() if (value > limit if up else value < limit))
    since = next(s for s in range(step - WINDOW + 1, step + 1) if past[s - 1])
    found = re.fullmatch(
        r"step (\d+): .*: median of (.*) (\S+) over steps (\d+-\d+), (\w+) the limit of (\S+) "
        r"\((\S+) over steps (\d+-\d+)\), since step (\d+); .+",
        told,
    ).groups()
    assert text in told and key in found[1]
    assert (found[0], found[3], found[7], found[8]) == (str(step), f"{step - 9}-{step}", "1-10", str(since))
    assert found[4] == ("above" if up else "below")
    assert [float(found[i]) for i in (2, 5, 6)] == pytest.approx([now[step], limit, reference], rel=0.006)


@pytest.mark.parametrize("seed", range(5))
def test_healthy_runs_raise_nothing(seed):
    learns = {
        "policy/entropy": 0.12,
        "rollout/response_length_mean": 1600,
        "rollout/truncated_rate": 0.12,
        "mel/length_mean": 200,
        "mel/nll": 0.25,
        "grad_norm/nll": 0.3,
        "grad_norm/policy": 0.15,
        "reward_mean": 0.8,
    }
    assert warnings(healthy(seed=seed)) == []
    assert warnings(healthy(seed=seed, **learns)) == []
    assert warnings(healthy(seed=seed, **{"policy/entropy": 0.6, "rollout/response_length_mean": 330})) == []


@pytest.mark.parametrize("window", [5, 10])
def test_the_demo_raises_nothing(window):
    """The rows are the demo's: a fifth of the Ms new (ignoring numbers), entropy 0.185 to 0.13 (30%), NLL 0.06 to 0.09
    with single steps at 0.13, ratio 0.6 to 1.5.
    """
    rng = random.Random(0)
    rows = [
        {
            "step": step,
            "policy/entropy": 0.185 - 0.055 * step / 40,
            "rollout/response_length_mean": rng.uniform(20, 21),
            "rollout/truncated_rate": rng.choice([0, 0, 0, 0.004]),
            "mel/distinct_share": rng.uniform(0.55, 0.95),
            "mel/new_share": rng.choice([0.3, 0.25, 0.2, 0.2, 0.15, 0.1, 0.05]),
            "mel/length_mean": rng.uniform(38, 42),
            "mel/nll": 0.133 if step % 8 == 7 else 0.06 + 0.03 * step / 40 + rng.uniform(-0.02, 0.02),
            "grad_norm/nll": rng.uniform(0.2, 0.3) + 0.4 * step / 40,
            "grad_norm/policy": rng.uniform(0.23, 0.45),
            "reward_mean": 0.37 + 0.53 * step / 40,
        }
        for step in range(1, 41)
    ]
    assert warnings(rows, window) == []


def test_a_rise_from_next_to_nothing_is_noise():
    rows = [
        {"step": i, "mel/nll": 0.01 if i <= 20 else 0.25, "policy/entropy": 0.02 if i <= 20 else 0.2}
        for i in range(1, 60)
    ]
    assert warnings(rows) == []


def levels(*parts: tuple[int, float]) -> list[dict]:
    values = [value for count, value in parts for _ in range(count)]
    return [{"step": step, "policy/entropy": value} for step, value in enumerate(values, 1)]


def test_comes_again_only_after_it_has_cleared():
    assert len(warnings(levels((20, 0.3), (200, 0.01)))) == 1
    # A median of 10 is good from the 5th good value to the 5th bad one; the warning clears after 10 such steps.
    assert len(warnings(levels((20, 0.3), (30, 0.01), (8, 0.3), (30, 0.01)))) == 1
    assert len(warnings(levels((20, 0.3), (30, 0.01), (9, 0.3), (30, 0.01)))) == 2
    # Steps without the quantity do not clear it.
    rows = levels((20, 0.3), (30, 0.01), (8, 0.3), (50, math.nan), (30, 0.01))
    assert len(warnings([{"step": r["step"]} if math.isnan(r["policy/entropy"]) else r for r in rows])) == 1


def apart(*values: float) -> list[str]:
    return warnings([{"step": step, "rollout/kl_k3": value} for step, value in enumerate(values, 1)])


@pytest.mark.parametrize(
    ("first", "sound", "lost", "limit"),
    [
        (2e-10, 9e-7, 1.1e-6, 1e-6),  # fp32: tiny differences
        (2e-5, 1.9e-4, 2.1e-4, 2e-4),  # limit: 10 times the first
        (8e-3, 0.049, 0.051, 0.05),  # the largest limit, even for a large initial difference
    ],
)
def test_an_engine_that_leaves_the_policy_is_told_of_at_the_step(first, sound, lost, limit):
    assert apart(first, *[sound] * 30) == []
    [told] = apart(first, sound, lost, *[lost] * 30)
    assert told.startswith(
        f"step 3: {AT_ONCE[0]}: rollout/kl_k3 {lost:.3g}, above the limit of {limit:g} ({first:g} at step 1); "
    )


def test_an_engine_that_is_another_model_is_told_of_at_the_first_step():
    [told] = apart(0.3, 0.3)
    assert told.startswith(f"step 1: {AT_ONCE[0]}: rollout/kl_k3 0.3, above the limit of 0.05 (0.3 at step 1)")


def test_an_engine_that_left_and_came_back_is_told_of_again_after_a_window():
    assert len(apart(1e-5, *[1e-3, 1e-5] * 5)) == 1
    assert len(apart(1e-5, 1e-3, *[1e-5] * WINDOW, 1e-3)) == 2


def test_no_judgement_before_the_window_is_full():
    collapsed = {"mel/distinct_share": 0.1, "grad_norm/nll": 90.0, "grad_norm/policy": 0.1}
    rows = [{"step": step, **collapsed} for step in range(1, 30)]
    assert warnings(rows[: WINDOW - 1]) == []
    assert len(warnings(rows)) == 2
    assert len(warnings(rows[:1], window=1)) == 2


def test_window_0_is_off():
    rows = [*levels((20, 0.3), (50, 0.001)), {"step": 71, "mel/nll": math.nan}]
    assert warnings(rows, 0) == [] and len(warnings(rows)) == 2


@pytest.mark.parametrize("key", START)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_told_at_once(key, value):
    rows = healthy(60)
    for step in (1, 2, 5, 40):
        rows[step - 1][key] = value
    told = warnings(rows)
    assert [text.split(":")[0] for text in told] == ["step 1", "step 40"]
    assert all(f"not a finite number: {key} is {value}" in text for text in told)


def test_what_is_not_finite_does_not_enter_a_median():
    rows = levels((20, 0.3), *[(2, math.inf), (1, 0.2)] * 10)
    [told] = warnings(rows)
    assert "not a finite number" in told


def test_several_that_are_not_finite_are_one_warning():
    [told] = warnings([{"step": 3, "loss/policy": math.nan, "mel/nll": math.inf}])
    assert "mel/nll is inf, loss/policy is nan" in told


def test_steps_without_experiences_do_not_count():
    rows = drifting("mel/nll", 0.01)
    sparse = [row for r in rows for row in ({**r, "step": 2 * r["step"]}, {"step": 2 * r["step"] + 1, "mel/nll": None})]
    [dense], [told] = warnings(rows), warnings(sparse)
    doubled = re.sub(r"(?<=step )\d+|(?<=steps )\d+|(?<=\d-)\d+", lambda found: str(2 * int(found[0])), dense)
    assert "recited" in told and told == doubled


def test_a_policy_gradient_of_zero_gives_no_ratio():
    rows = [{"step": step, "grad_norm/nll": 1.0, "grad_norm/policy": 0.0} for step in range(1, 50)]
    assert warnings(rows) == []


VALUES = st.one_of(
    st.none(), st.floats(0, 2), st.integers(0, 3), st.sampled_from([0.001, 0.3, 0.3, 50.0, math.nan, math.inf])
)


@settings(max_examples=60)
@given(st.lists(st.dictionaries(st.sampled_from(list(START)), VALUES), max_size=40), st.integers(1, 4), st.data())
def test_fed_the_file_again_it_is_where_it_was(parts, window, data):
    rows = [{"step": step, **part} for step, part in enumerate(parts, 1)]
    at = data.draw(st.integers(0, len(rows)))
    through, resumed = CollapseGuard(window), CollapseGuard(window)
    told = [through.observe(row) for row in rows]
    again = [resumed.observe(json.loads(json.dumps(row))) for row in rows[:at]]
    assert again + [resumed.observe(row) for row in rows[at:]] == told


def test_memory_is_bounded():
    def kept(steps: int) -> int:
        watch = CollapseGuard(WINDOW)
        for row in healthy(steps):
            watch.observe(row)
        return len(pickle.dumps(watch))

    assert kept(3000) < kept(100) * 1.1
