"""Lengths, compared with random draws; tokens and seconds, computed by hand and compared with published figures."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.preflight import throughput
from openrlhf_mel.preflight.lengths import Budget, Responses, share_too_long
from openrlhf_mel.preflight.shapes import Shape, bundled
from openrlhf_mel.preflight.throughput import Card, Work, estimate

H100 = Card(989e12, 3.35e12)
QWEN3_8B = bundled()["Qwen/Qwen3-8B-Base"]
LLAMA_8B = Shape(128256, 4096, 14336, 32, 32, 8, 128, tied=False, positions=131072)
QWEN3_32B = Shape(151936, 5120, 25600, 64, 64, 8, 128, tied=False, positions=40960, qk_norm=True)


def budget(max_len=8192, response=4096, m=1024, **changes) -> Budget:
    base = {
        "max_len": max_len, "instruction": 500, "question": 40, "replay": 90, "mean_question": 100, "longest_question": 800,
        "response": response, "m": m, "replay_response": response,
    }  # fmt: skip
    return Budget(**base | changes)


def draw(responses: Responses, rng: random.Random) -> float:
    centre = math.log(responses.mean) - responses.spread**2 / 2
    return math.exp(rng.gauss(centre, responses.spread))


@pytest.mark.parametrize("mean", [400, 1600, 3500])
def test_shares_and_means_as_drawn(mean):
    responses, rng = Responses(mean, 4096), random.Random(0)
    lengths = [draw(responses, rng) for _ in range(40_000)]
    assert responses.truncated == pytest.approx(sum(y > 4096 for y in lengths) / len(lengths), abs=0.01)
    assert responses.average == pytest.approx(sum(min(y, 4096) for y in lengths) / len(lengths), rel=0.02)


@pytest.mark.parametrize("selection", ["uniform", "shortest"])
@pytest.mark.parametrize("max_len", [4096, 5000, 6500, 9000])
def test_share_of_pairs_too_long_as_drawn(selection, max_len):
    responses, rng, it = Responses(1600, 4096), random.Random(1), budget(max_len)

    def one() -> float:
        while (y := draw(responses, rng)) > 4096:
            pass
        return y

    def side() -> float:
        return min(one() for _ in range(4)) if selection == "shortest" else one()

    pairs = [500 + 100 + 1024 + side() + side() > max_len for _ in range(10_000)]
    share = share_too_long(it, responses, group=8, selection=selection)
    assert share == pytest.approx(sum(pairs) / len(pairs), abs=0.02)


@given(st.integers(50, 8000), st.integers(100, 8000), st.integers(1000, 30_000))
def test_shares_are_shares_and_fall_with_room(mean, cap, max_len):
    responses = Responses(mean, cap)
    shares = [share_too_long(budget(m), responses, 8, "uniform") for m in (max_len, max_len + 500, max_len + 50_000)]
    assert 0 <= shares[2] <= shares[1] <= shares[0] <= 1 and shares[2] == pytest.approx(0, abs=1e-9)
    assert 0 <= responses.truncated <= 1 and 0 < responses.average <= cap
    assert sum(responses.complete()) == pytest.approx(1) or responses.truncated > 0.999


def test_budget_by_hand():
    it = budget()
    assert it.room == 8192 - 500 - 100 - 1024
    assert it.sequence == 40 + 800 + 4096
    assert it.row == 8192  # 500 + 800 + 2 x 4096 + 1024 would not fit
    assert budget(20_000).row == 500 + 800 + 8192 + 1024


def work(shape=QWEN3_8B, **changes) -> Work:
    base = {
        "shape": shape, "card": H100, "ranks": 8, "engines": 8, "engine_ranks": 1, "kv_tokens": 400_000, "questions": 128,
        "group": 8, "responses": Responses(1000, 4096), "budget": budget(), "checkpointing": True,
    }  # fmt: skip
    return Work(**base | changes)


def test_training_flops_by_hand():
    # 7,568,405,504 multiplied parameters x 8, and 4 passes x 2 x 36 layers x 4096 x 1000 tokens of context
    flops = throughput.training_flops(QWEN3_8B, 1, 1000, checkpointing=True)
    assert flops == 8 * 7_568_405_504 + 4 * 2 * 36 * 4096 * 1000
    assert throughput.training_flops(QWEN3_8B, 1, 0, checkpointing=False) == 6 * 7_568_405_504


def test_one_sequence_is_read_at_the_speed_of_memory():
    # 15.14 GB of weights at 0.6 x 3.35 TB/s take 7.53 ms; with 5 ms overhead a token takes 12.5 ms (little for its cache)
    seconds = throughput.decode_seconds(work(), 1, 0, lambda t: 1.0, 1000)
    assert seconds == pytest.approx(1000 * (15.137e9 / 2.01e12 + 0.005), rel=0.02)


def test_tokens_of_a_step_by_hand():
    it = work(responses=Responses(1000, 10**6), budget=budget(response=10**6, max_len=10**7))
    tokens = estimate(it).tokens
    assert tokens["rollout"] == pytest.approx(1024 * 1000, rel=0.02)
    assert tokens["prompts"] == 1024 * 140
    # half of 128 questions are mixed; an M has half of 1024 tokens; half are kept, after a context of 600 + 2 x 1000
    assert tokens["M"] == 64 * 512
    assert tokens["NLL"] == pytest.approx(32 * (600 + 2000 + 512), rel=0.02)


def test_the_baseline_constructs_nothing():
    e = estimate(work(learns=False))
    assert set(e.seconds) == {"rollout", "log-probs", "policy update", "hand-over"} and "M" not in e.tokens


@given(st.integers(1, 64), st.integers(1, 512), st.integers(10, 4000), st.integers(100, 8000))
def test_seconds_are_positive_and_fall_with_gpus(ranks, questions, mean, cap):
    it = work(ranks=ranks, engines=ranks, questions=questions, responses=Responses(mean, cap))
    wider = work(ranks=2 * ranks, engines=2 * ranks, questions=questions, responses=Responses(mean, cap))
    few, many = estimate(it).seconds, estimate(wider).seconds
    assert all(v >= 0 and math.isfinite(v) for v in few.values())
    assert all(many[k] <= v * 1.0001 for k, v in few.items())


def mean_of(average: float, cap: int) -> Responses:
    """Return the assumed distribution whose mean after truncation is `average`."""
    low, high = 1.0, 50.0 * cap
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if Responses(middle, cap).average < average else (low, middle)
    return Responses(low, cap)


# NeMo RL 0.4, GRPO on H100s with Megatron and vLLM:
# https://github.com/NVIDIA-NeMo/RL/blob/main/docs/about/performance-summary.md
@pytest.mark.parametrize(
    ("shape", "gpus", "engine_ranks", "average", "published", "difference"),
    [(LLAMA_8B, 16, 1, 1060, 97.7, 0.001), (QWEN3_32B, 32, 4, 3206, 393, -0.110)],
)
def test_a_step_as_published_by_others(shape, gpus, engine_ranks, average, published, difference):
    prompt = 100  # assumed; the table gives the whole sequence's length, of at most 4096
    it = work(
        shape,
        ranks=gpus,
        engines=gpus // engine_ranks,
        engine_ranks=engine_ranks,
        questions=64,
        group=32,
        responses=mean_of(average - prompt, 4096 - prompt),
        budget=budget(4096, 4096 - prompt, question=0, mean_question=prompt),
        learns=False,
        at_once=1024,
        kv_tokens=450_000 if engine_ranks == 1 else 819_200,
    )
    total = estimate(it).total
    assert total / published - 1 == pytest.approx(difference, abs=0.01)  # as docs/preflight.md says
