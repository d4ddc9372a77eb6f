"""The reward function as OpenRLHF loads and calls it."""

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(90)
PATH = Path(__file__).parents[2] / "openrlhf_mel" / "reward.py"


@pytest.fixture(scope="module")
def reward() -> ModuleType:
    """Load the module by path under another name, as OpenRLHF does."""
    spec = importlib.util.spec_from_file_location("reward_func", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def statuses(result: dict) -> list[str]:
    logs = result["extra_logs"]
    count = len(result["rewards"])
    return [next(k.removeprefix("verifier/") for k, v in logs.items() if v[i] == 1) for i in range(count)]


def test_judges_the_response_alone(reward: ModuleType) -> None:
    prompt = "<|user|>Hint: the answer is \\boxed{7}. What is 3+4?<|assistant|>"
    queries = [prompt + response for response in ("\\boxed{7}<|im_end|>", "\\boxed{8}", "I do not know", "")]
    result = reward.reward_func(queries, [prompt] * 4, ["7"] * 4)
    assert result["rewards"].tolist() == [1, 0, 0, 0]
    assert result["scores"].tolist() == [1, 0, 0, 0]
    assert statuses(result) == ["correct", "wrong", "no_answer", "no_answer"]
    assert all(sum(v[i].item() for v in result["extra_logs"].values()) == 1 for i in range(4))


def test_says_error_when_it_cannot_tell_the_response(reward: ModuleType) -> None:
    prompt = "The hint says \\boxed{7}."
    result = reward.reward_func([prompt[5:] + " \\boxed{7}", "\\boxed{7}", "\\boxed{7}"], [prompt, "", None], ["7"] * 3)
    assert result["rewards"].tolist() == [0, 0, 0]
    assert statuses(result) == ["error"] * 3


def test_leading_white_space_that_a_tokenizer_drops(reward: ModuleType) -> None:
    assert statuses(reward.reward_func(["What? \\boxed{7}"], [" What?"], ["7"])) == ["correct"]


@pytest.mark.parametrize("label", [None, "", "\\frac{1}{", object(), [], float("nan")])
def test_never_raises(reward: ModuleType, label: object) -> None:
    result = reward.reward_func(["p \\boxed{x+1}"], ["p"], [label])
    assert (result["rewards"].tolist(), statuses(result)) == ([0], ["error"])


def test_never_raises_on_broken_calls(reward: ModuleType) -> None:
    assert statuses(reward.reward_func(["p \\boxed{7}", None], ["p"], ["7"])) == ["correct", "error"]
    assert statuses(reward.reward_func(["p \\boxed{7}"], ["p"], None)) == ["error"]
    assert reward.reward_func([], [], [])["rewards"].tolist() == []


def test_through_openrlhf_s_own_executor() -> None:
    """Check the values that OpenRLHF derives from the result; it calls in a thread, one query at a time."""
    agent = pytest.importorskip("openrlhf.utils.agent")
    executor = agent.SingleTurnAgentExecutor(str(PATH))
    found = asyncio.run(executor._fetch_rewards_via_func(["p \\boxed{x+1}"], ["p"], ["1+x"]))
    assert torch.tensor([found[0]["rewards"]]).tolist() == [1.0]
    logs = {key: value.flatten()[0].item() for key, value in found[0]["extra_logs"].items()}
    assert logs["verifier/correct"] == 1.0 and logs["verifier/error"] == 0.0
