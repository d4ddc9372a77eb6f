"""eval/identity.py: the metrics that n samples allow, a run's samples, and settings that must not be mixed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eval.benchmark_questions import Benchmark, Template
from eval.identity import Draws, differences, requests, seed_of, settings
from eval.messages import Question, Request, Sampling
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)

TEMPLATE = Template("mine", "Q: {{question}}\nA:")
NAMES = st.text(min_size=1, max_size=12)


def benchmark(name: str, *ids: str) -> Benchmark:
    return Benchmark(name, [Question(name, i, f"What is {i}?", "2") for i in ids], f"sha256 of {name}")


@pytest.mark.parametrize(
    ("n", "text", "expected"),
    [
        (8, None, Draws(8, True, ("pass@1", "avg@8", "pass@8", "maj@8"))),
        (1, None, Draws(1, True, ("pass@1", "avg@1", "maj@1"))),
        (8, "pass@1", Draws(0, True, ("pass@1",))),
        (8, "avg@8", Draws(8, False, ("avg@8",))),
        (8, "maj@8,pass@2,pass@8", Draws(8, False, ("maj@8", "pass@2", "pass@8"))),
        (8, " Pass@4 ,, PASS@1,pass@4,", Draws(8, True, ("pass@4", "pass@1"))),
        (16, "pass@1,avg@16,pass@16", Draws(16, True, ("pass@1", "avg@16", "pass@16"))),
        (1, "avg@1", Draws(1, False, ("avg@1",))),
    ],
)
def test_metrics_say_what_is_drawn(n, text, expected):
    assert Draws.parse(n, text) == expected


@pytest.mark.parametrize(
    ("n", "text", "message"),
    [
        (4, "pass@8", r"--metrics pass@8: needs at least 8 samples a question, found --n 4; raise --n or lower k"),
        (4, "pass@1,pass@5", r"--metrics pass@5: needs at least 5"),
        (4, "avg@8", r"--metrics avg@8: found --n 4, so only avg@4 can be given"),
        (8, "avg@4", r"--metrics avg@4: found --n 8, so only avg@8 can be given"),
        (8, "maj@7", r"--metrics maj@7: found --n 8, so only maj@8 can be given"),
        (8, "pass@0", r"--metrics pass@0: expected pass@1 .* or pass@2 to pass@8"),
        (8, "best@8", r"--metrics: unknown metric 'best@8', expected pass@1, avg@8, pass@<k> or maj@8"),
        (8, "pass@1x", r"unknown metric 'pass@1x'"),
        (8, "pass@-1", r"unknown metric 'pass@-1'"),
        (8, "pass@08", r"unknown metric 'pass@08'"),
        (8, "avg@８", r"unknown metric"),
        (8, f"pass@{'9' * 5000}", r"unknown metric"),
        (8, " , ", r"--metrics: found none"),
        (8, "", r"--metrics: found none"),
        (0, None, r"--n 0: expected at least 1"),
        (-1, "pass@1", r"--n -1: expected at least 1"),
    ],
)
def test_what_the_samples_cannot_give_is_refused(n, text, message):
    with pytest.raises(UserError, match=message):
        Draws.parse(n, text)


@given(st.integers(1, 64), st.data())
def test_a_metric_is_given_exactly_where_n_allows_it(n, data):
    kind, k = data.draw(st.sampled_from(["pass", "avg", "maj"])), data.draw(st.integers(0, 70))
    possible = {"pass@1", f"avg@{n}", f"maj@{n}"} | {f"pass@{k}" for k in range(2, n + 1)}
    try:
        draws = Draws.parse(n, f"{kind}@{k}")
    except UserError:
        assert f"{kind}@{k}" not in possible
    else:
        assert f"{kind}@{k}" in possible
        assert draws.greedy == (draws.n == 0) == (f"{kind}@{k}" == "pass@1")


def test_the_seeds_of_a_run_never_change():
    """A resumed run must draw the same samples. Expected values: `printf 0/aime24/q/0 | sha256sum`."""
    assert seed_of(0, "aime24", "q", 0) == 0xBE15E4D5 >> 1
    assert seed_of(7, "math500", "é-1", 7) == 0x713361ED >> 1


@given(st.integers(), NAMES, NAMES, st.integers(0, 10_000))
def test_a_seed_is_in_range_and_repeats(seed, name, question, sample):
    found = seed_of(seed, name, question, sample)
    assert 0 <= found < 2**31
    assert seed_of(seed, name, question, sample) == found


def test_seeds_spread_evenly_and_differ_in_every_part():
    seeds = [seed_of(s, b, q, i) for s in (0, 1, -1) for b in "ab" for q in ("1", "11", "1/1") for i in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert stats.kstest(np.array(seeds) / 2**31, "uniform").pvalue > 0.001  # not random: the seeds are fixed


def test_requests_of_a_run():
    found = requests(
        [benchmark("a", "q1", "q2"), benchmark("b", "q1")], TEMPLATE, dict.fromkeys("ab", Draws.parse(2, None)), seed=5
    )
    prompts = {"q1": "Q: What is q1?\nA:", "q2": "Q: What is q2?\nA:"}
    assert found == [
        request
        for name, question in (("a", "q1"), ("a", "q2"), ("b", "q1"))
        for request in (
            Request(name, question, 0, True, 0, prompts[question]),
            Request(name, question, 0, False, seed_of(5, name, question, 0), prompts[question]),
            Request(name, question, 1, False, seed_of(5, name, question, 1), prompts[question]),
        )
    ]


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.integers(0, 3))
def test_a_sample_has_the_same_seed_whatever_else_is_drawn(few, many, questions, more):
    """A larger --n or --limit, further benchmarks, no greedy response: none changes existing samples."""
    few, many = sorted((few, many))
    ids = [f"q{i}" for i in range(questions + more + 1)]
    small = requests([benchmark("a", *ids[: questions + 1])], TEMPLATE, {"a": Draws.parse(few, f"avg@{few}")}, seed=1)
    large = requests(
        [benchmark("z", "x"), benchmark("a", *ids)], TEMPLATE, dict.fromkeys("za", Draws.parse(many, None)), seed=1
    )
    assert set(small) <= set(large)
    assert len(set(large)) == len(large) == (len(ids) + 1) * (many + 1)


def test_greedy_alone_draws_one_of_each_question():
    found = requests([benchmark("a", "q1", "q2")], TEMPLATE, {"a": Draws.parse(8, "pass@1")}, seed=1)
    assert [(r.question, r.sample, r.greedy, r.seed) for r in found] == [("q1", 0, True, 0), ("q2", 0, True, 0)]


def made(**changed):
    values = {
        "model": {"backend": "hf", "weights_sha256": "a" * 64, "versions": {"torch": "2.8"}},
        "template": TEMPLATE,
        "sampling": Sampling(0.6, 1.0, 4096),
        "chat": False,
        "seed": 0,
        "data": {"aime24": "1" * 64, "amc23": "2" * 64},
        "scorers": {"aime24": "math", "amc23": "math"},
        "versions": {"python": "3.11.7", "sympy": "1.14.0"},
    }
    return settings(**(values | changed))


def test_everything_that_could_change_a_sample_is_a_setting():
    assert made() == {
        "model": {"backend": "hf", "weights_sha256": "a" * 64, "versions": {"torch": "2.8"}},
        "template": {"name": "mine", "sha256": TEMPLATE.sha256, "chat": False},
        "sampling": {"temperature": 0.6, "top_p": 1.0, "max_tokens": 4096},
        "seed": 0,
        "data_sha256": {"aime24": "1" * 64, "amc23": "2" * 64},
        "scorers": {"aime24": "math", "amc23": "math"},
        "versions": {"python": "3.11.7", "sympy": "1.14.0"},
    }


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({}, []),
        ({"seed": 1}, ["seed: 0 -> 1"]),
        ({"chat": True}, ["template.chat: False -> True"]),
        ({"sampling": Sampling(0.6, 1.0, 2048)}, ["sampling.max_tokens: 4096 -> 2048"]),
        (
            {"sampling": Sampling(1.0, 0.9, 4096)},
            ["sampling.temperature: 0.6 -> 1.0", "sampling.top_p: 1.0 -> 0.9"],
        ),
        ({"versions": {"python": "3.12.1", "sympy": "1.14.0"}}, ["versions.python: 3.11.7 -> 3.12.1"]),
        ({"versions": {"python": "3.11.7"}}, ["versions.sympy: 1.14.0 -> None"]),
        ({"model": {"backend": "hf", "weights_sha256": "a" * 64, "versions": {"torch": "2.9"}}},
         ["model.versions.torch: 2.8 -> 2.9"]),
        ({"model": {"backend": "hf", "weights_sha256": "b" * 64, "versions": {"torch": "2.8"}}},
         [f"model.weights_sha256: {'a' * 16}... -> {'b' * 16}..."]),
        ({"template": Template("mine", "{{question}}")},
         [f"template.sha256: {TEMPLATE.sha256[:16]}... -> {Template('', '{{question}}').sha256[:16]}..."]),
        ({"data": {"aime24": "3" * 64, "amc23": "2" * 64}},
         ["data_sha256.aime24: 1111111111111111... -> 3333333333333333..."]),
        ({"data": {"amc23": "2" * 64, "math500": "4" * 64}}, []),  # other benchmarks, same hashes where shared
        ({"data": {"math500": "4" * 64}}, []),
        ({"scorers": {"aime24": "choice", "math500": "a.b:c"}}, ["scorers.aime24: math -> choice"]),
    ],
)  # fmt: skip
def test_what_changed_is_named(changed, lines):
    assert differences(json.loads(json.dumps(made())), made(**changed)) == lines


def test_settings_of_before_there_were_scorers_are_of_mathematics():
    old = {key: value for key, value in made().items() if key != "scorers"}
    assert differences(old, made()) == differences(made(), old) == []
    assert differences(old, made(scorers={"amc23": "choice", "more": "choice"})) == ["scorers.amc23: math -> choice"]


def test_another_name_for_the_same_template_is_no_difference():
    assert differences(made(), made(template=Template("other", TEMPLATE.text))) == []


def test_nothing_that_a_terminal_would_obey_is_said():
    (line,) = differences(made(), made(model="\x1b[2J\nserver"))
    assert line.endswith("-> ?[2J?server") and line.isprintable()


def test_long_names_are_told_apart():
    """Paths of neighbouring folders share a long prefix."""
    old, new = (made(model={"name": f"/a/long/way/to/the/models/of/this/project/{name}"}) for name in ("base", "mel"))
    (line,) = differences(old, new)
    assert line.endswith("project/base -> /a/long/way/to/the/models/of/this/project/mel")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
def test_settings_do_not_differ_from_what_the_file_says(values):
    assert differences(json.loads(json.dumps(values)), values) == []


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 3)), st.dictionaries(st.text(max_size=3), st.integers(0, 3)))
def test_each_difference_is_one_line_whichever_is_first(old, new):
    differing = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    for name in ("", "model"):
        first, second = ({name: values} if name else values for values in (old, new))
        assert len(differences(first, second)) == len(differences(second, first)) == len(differing)
