"""`benchmarks/rollout.py`: answers that depend on nothing but their request, with the toy's tokenizer; when it fails."""

import statistics
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmarks.rollout import Measured, told
from benchmarks.rollout_script import HEADINGS, HEADINGS_TOKENS, Script, asked, is_right
from benchmarks.rollout_simulation import KINDS, Lengths
from openrlhf_mel.method.experience import read_sections
from openrlhf_mel.prompts import PromptFormat, Templates

TOY = Path(__file__).parents[2] / "data" / "toy"
SCRIPT = Script(scale=16)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TOY / "model")


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return PromptFormat(Templates.load(TOY / "templates"), tokenizer)


def size(tokenizer, text):
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_request_is_known_by_its_prompt(prompts):
    name = SCRIPT.names(3, 2)[5]
    assert name == "Compute 3+69."
    right, wrong, m = (
        SCRIPT.answer(kind, name, i).text for kind, i in (("response", 0), ("response", 1), ("experience", 0))
    )
    assert asked(prompts.question(name)) == ("response", name)
    assert asked(prompts.analysis(name, wrong, right)) == ("experience", name)
    assert asked(prompts.replay(name, m)) == ("replay", name)


def test_texts_have_the_tokens_that_were_drawn(tokenizer, prompts):
    assert size(tokenizer, HEADINGS) == HEADINGS_TOKENS
    names = SCRIPT.names(0, 0)
    for kind in ("response", "experience", "replay"):
        answers = [SCRIPT.answer(kind, name) for name in names]
        assert [size(tokenizer, a.text) for a in answers] == [a.tokens for a in answers]
        assert len({a.text for a in answers}) > len(names) / 2
    for name in names:
        sections = read_sections(SCRIPT.answer("experience", name).text, prompts.templates.sections)
        assert sections and set(sections) == {"bifurcation_point", "critique", "heuristic"}
    assert size(tokenizer, prompts.question(SCRIPT.names(0, 3)[4])) == SCRIPT.prompt
    assert size(tokenizer, prompts.analysis(SCRIPT.names(0, 3)[4], "", "")) == SCRIPT.analysis


def test_half_of_a_mixed_group_is_right_and_all_of_another():
    for name in SCRIPT.names(1, 0):
        right = [is_right(SCRIPT.answer("response", name, i).text) for i in range(SCRIPT.group)]
        assert sum(right) == (4 if SCRIPT.is_mixed(name) else 8)
        assert is_right(SCRIPT.answer("replay", name).text)


def test_lengths_are_those_of_the_distribution_divided_by_the_scale():
    names = [name for number in range(40) for name in SCRIPT.names(0, number)]
    long = Script(responses=Lengths(1480, 0.9, 8192), scale=16)
    for script, median in ((SCRIPT, 665 / 16), (long, 1480 / 16)):
        drawn = [script.tokens("response", name, i) for name in names for i in range(2)]
        assert statistics.median(drawn) == pytest.approx(median, rel=0.1)
        assert max(drawn) == 8192 / 16
    assert statistics.median(SCRIPT.tokens("experience", name) for name in names) == pytest.approx(350 / 16, rel=0.1)


def test_the_simulation_gets_the_same_requests():
    groups = SCRIPT.groups(2, 1)
    names = SCRIPT.names(2, 1)
    assert len(groups) == len(names) == 32
    assert 8 < sum(pair is not None for _, pair in groups) < 24
    for name, (lengths, pair) in zip(names, groups, strict=True):
        assert lengths == [SCRIPT.answer("response", name, i).tokens for i in range(8)]
        assert pair is None or pair.experience == SCRIPT.answer("experience", name).tokens


@pytest.mark.parametrize("scale", [8, 16, 500])
def test_nothing_is_longer_than_the_context(scale, tokenizer, prompts):
    script = Script(scale=scale)
    names = [name for number in range(40) for name in script.names(10, number)]
    for kind in ("response", "experience", "replay"):
        assert max(script.tokens(kind, name) for name in names) <= script.longest(kind)
    longest = "7" * script.longest("response")
    analysis = size(tokenizer, prompts.analysis(names[-1], longest, longest))
    assert analysis + script.longest("experience") <= script.context


@pytest.mark.parametrize(
    ("deferred", "simulated", "finished", "failed"),
    [
        (10.5, 10.0, 16.0, []),
        (10.8, 10.6, 15.3, []),
        (10.9, 10.5, 16.0, ["takes 1.090"]),
        (10.9, 10.5, 15.0, ["takes 1.090", "finishes 15.00"]),
        (10.0, 10.0, 17.0, ["finishes 17.00"]),
    ],
)
def test_it_fails_beyond_both_limits_of_time_or_on_other_constructions(deferred, simulated, finished, failed):
    def of(seconds, constructed):
        return {
            kind: [
                Measured(seconds if kind == "deferred" else 10.0, constructed if kind == "deferred" else 16.0, *[0] * 4)
            ]
            for kind in KINDS
        }

    lines, found = told(665, of(deferred, finished), of(simulated, 16.0))
    assert len(lines) == 4 and len(found) == len(failed)
    assert all(part in line for part, line in zip(failed, found, strict=True))
