"""The warnings about a run's settings at its start."""

from types import SimpleNamespace

import pytest

from openrlhf_mel.upstream.unwatched import unwatched

pytestmark = pytest.mark.timeout(60)


def settings(mel=None, **changes):
    plain = {
        "mel": SimpleNamespace(**({"enable": True, "measure_mismatch": True, "runtime": "cuda"} | (mel or {}))),
        "actor": SimpleNamespace(optim="adam"),
        "ds": SimpleNamespace(adam_offload=False),
        "rollout": SimpleNamespace(top_p=1.0),
        "vllm": SimpleNamespace(enable_sleep=False),
    }
    return SimpleNamespace(**(plain | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"ds": SimpleNamespace(adam_offload=True)}, "--ds.adam_offload"),
        ({"actor": SimpleNamespace(optim="muon")}, "--actor.optim muon"),
        ({"rollout": SimpleNamespace(top_p=0.9)}, "--rollout.top_p 0.9"),
    ],
)
def test_what_is_not_to_be_had_is_told(changes, said):
    notes = list(unwatched(settings(**changes)))
    assert len(notes) == bool(said) and all(said in note for note in notes)
    assert list(unwatched(settings({"enable": False, "measure_mismatch": False}, **changes))) == []


@pytest.mark.parametrize(("runtime", "sleeps", "said"), [("cpu", True, 1), ("cpu", False, 0), ("cuda", True, 0)])
def test_a_sleep_that_frees_nothing_is_told(runtime, sleeps, said):
    args = settings({"enable": False, "runtime": runtime}, vllm=SimpleNamespace(enable_sleep=sleeps))
    assert ["--vllm.enable_sleep frees no memory" in note for note in unwatched(args)] == [True] * said
