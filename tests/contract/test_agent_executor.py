"""MEL's agent executor, called by upstream's own code: what is judged, and the result when judging fails."""

import asyncio
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.timeout(60)


class Characters:
    def __call__(self, text, add_special_tokens=False, return_tensors=None):
        import torch

        return {"input_ids": torch.tensor([[ord(c) for c in text]])}

    def decode(self, ids, skip_special_tokens=True):
        return "".join(map(chr, ids))


class Engine:
    def __init__(self, response):
        self.response = response

    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        one = SimpleNamespace(token_ids=[ord(c) for c in self.response], finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[one])


@pytest.fixture
def answer():
    from openrlhf.trainer.ray.vllm_engine import _load_agent_executor

    from openrlhf_mel.upstream import AGENT_EXECUTOR

    executor = _load_agent_executor(AGENT_EXECUTOR)  # by path, as upstream does

    def run(prompt, response, label):
        sampling = SimpleNamespace(max_tokens=100, logprobs=None)
        return asyncio.run(
            executor.execute(
                prompt=prompt, label=label, sampling_params=sampling, max_length=1000, hf_tokenizer=Characters(),
                llm_engine=Engine(response), images=None,
            )
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("prompt", "response", "score", "status"),
    [
        ("1 + 1?", r"so \boxed{2}", 1.0, "correct"),
        ("1 + 1?", r"so \boxed{3}", 0.0, "wrong"),
        # an answer in the prompt, or in an M inside the prompt, does not count as the response's
        (r"hint: the answer is \boxed{2}. 1 + 1?", "I do not know", 0.0, "no_answer"),
        (r"hint: the answer is \boxed{2}. 1 + 1?", r"\boxed{3}", 0.0, "wrong"),
        (r"1 + 1? \boxed{", "2}", 0.0, "no_answer"),
    ],
)
def test_only_the_responses_own_tokens_are_judged(answer, prompt, response, score, status):
    from openrlhf_mel.upstream.agent_executor import unjudged

    output = answer(prompt, response, "2")
    assert output["reward"] == output["scores"] == score
    assert {k for k, v in output["extra_logs"].items() if v} == {f"verifier/{status}"}
    assert not unjudged(output)


@pytest.mark.parametrize("label", ["", r"\frac{1", r"10^{10^{10^{10}}}"])
def test_what_cannot_be_judged_scores_nothing_and_says_so(answer, label):
    from openrlhf_mel.upstream.agent_executor import unjudged

    output = answer("?", r"\boxed{x+1}", label)
    assert output["scores"] == 0.0 and unjudged(output)


def test_the_labels_scorer_judges(answer):
    from openrlhf_mel.upstream.agent_executor import unjudged
    from openrlhf_mel.verifier import Reference

    question = "Where?\nA. Rome\nB. Paris"
    for response, score in (
        (r"\boxed{B. Paris}", 1.0),
        (r"\boxed{Paris}", 1.0),
        (r"\boxed{A}", 0.0),
        (r"\boxed{A or B}", 0.0),
    ):
        assert answer("?", response, Reference("B", "choice", question))["scores"] == score, response
    assert answer("?", r"\boxed{Paris}", "B")["scores"] == 0.0  # the default scorer is math
    assert unjudged(answer("?", r"\boxed{x}", Reference("x", "no_such_module_here:f")))
    assert unjudged(answer("?", r"\boxed{x}", Reference("x", "no such name")))


def test_a_verifier_that_raises_costs_one_response(answer, monkeypatch):
    import sys

    def broken(*args):
        raise OSError("no worker")

    module = sys.modules.get("agent_module")
    run = answer
    # upstream does not register the loaded module: its function is reached through the class
    executor = next(c.cell_contents for c in run.__closure__ if hasattr(c.cell_contents, "execute"))
    monkeypatch.setitem(type(executor).execute.__globals__, "verify", broken)
    output = run("?", r"\boxed{2}", "2")
    assert module is None and output["scores"] == 0.0 and output["extra_logs"]["verifier/error"] == 1.0
