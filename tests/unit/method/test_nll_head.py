"""The NLL computed in chunks, without a whole matrix of logits, equals that of plain logits in value and gradient."""

import functools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from openrlhf_mel.method import nll_head
from openrlhf_mel.method.nll_chunks import CHUNK, CHUNKS, chunk_length
from openrlhf_mel.method.nll_head import NLLHead, token_nll
from openrlhf_mel.preflight import memory

VOCABULARY = 23
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def relative(mine, theirs):
    return float((mine - theirs).norm() / theirs.norm())


@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 6), st.integers(2, 12), st.integers(1, 40), st.integers(0, 99)
)
def test_value_and_gradient_in_float64(batch, length, hidden, vocabulary, chunk, seed):
    torch.manual_seed(seed)
    states = torch.randn(batch, length, hidden, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocabulary, hidden, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(vocabulary, (batch, length))
    share = torch.randn(batch, length, dtype=torch.float64)
    found = token_nll(lambda part: F.linear(part, weight), states, targets, chunk)
    expected = -F.linear(states, weight).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    assert found.shape == targets.shape and torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    mine = torch.autograd.grad((found * share).sum(), (states, weight))
    theirs = torch.autograd.grad((expected * share).sum(), (states, weight))
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(mine, theirs, strict=True))


def test_in_fp32_whatever_the_head_computes_in():
    torch.manual_seed(0)
    states, targets = torch.randn(2, 5, 8, dtype=torch.bfloat16), torch.randint(4, (2, 5))
    weight = torch.randn(4, 8, dtype=torch.bfloat16)
    found = token_nll(lambda part: F.linear(part, weight), states, targets)
    assert found.dtype == torch.float32
    expected = F.cross_entropy(F.linear(states, weight).float().flatten(0, 1), targets.flatten(), reduction="none")
    assert torch.equal(found.flatten(), expected)


def test_logits_of_one_chunk_at_a_time():
    """At most 3 of 10 positions have logits at once, in forward and backward, and none are kept in between."""
    made, kept = [], []

    def linear(part):
        made.append(len(part))
        return F.linear(part, weight)

    states, weight = torch.randn(2, 5, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = token_nll(linear, states, torch.randint(50, (2, 5)), chunk=3).sum()
    assert made == [3, 3, 3, 1] and max(kept, default=0) < 50
    loss.backward()
    assert sorted(made) == sorted([3, 3, 3, 1] * 2)


def test_the_heads_gradient_in_bf16_whatever_the_number_of_tokens():
    """Chunks are summed in bf16: with 64 chunks the error would be 0.9%."""
    torch.manual_seed(0)
    tokens, hidden, vocabulary = 8192, 128, 256
    weight = (0.05 * torch.randn(vocabulary, hidden)).bfloat16()
    states = (torch.randn(1, tokens, hidden) + 0.3 * torch.randn(hidden)).bfloat16()  # they share a direction
    targets = torch.multinomial((2 * torch.randn(vocabulary)).softmax(0), tokens, replacement=True)[None]

    def gradient(dtype, **options):
        leaf = weight.to(dtype).requires_grad_()
        token_nll(lambda part: F.linear(part, leaf), states.to(dtype), targets, **options).mean().backward()
        return leaf.grad.float()

    exact = gradient(torch.float32)
    assert relative(gradient(torch.bfloat16), exact) < 0.005 < relative(gradient(torch.bfloat16, chunk=128), exact)


@given(st.integers(1, 40_000))
def test_length_of_a_chunk(positions):
    length = chunk_length(positions)
    assert length >= CHUNK and -(-positions // length) <= CHUNKS
    assert positions > CHUNK * CHUNKS or length == CHUNK
    assert memory.chunk_length(positions) == length  # preflight uses the same length


def qwen3(**more):
    torch.manual_seed(0)
    return _spread(Qwen3ForCausalLM(Qwen3Config(**SIZES, **more)))


def gemma2():
    """A model that applies a soft cap to its logits after the head."""
    torch.manual_seed(0)
    return _spread(Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=0.5, attn_implementation="eager")))


def granite():
    """A model that divides its logits after the head."""
    torch.manual_seed(0)
    sizes = {n: v for n, v in SIZES.items() if n != "head_dim"}
    return _spread(GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=4.0)))


def _spread(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double()


MODELS = {
    "tied": lambda: qwen3(tie_word_embeddings=True),
    "untied": lambda: qwen3(tie_word_embeddings=False),
    "soft cap": gemma2,
    "scale": granite,
}
CHANGED = ("soft cap", "scale")  # these change the logits after the head


@pytest.fixture
def chunks_of_4(monkeypatch):
    monkeypatch.setattr(nll_head, "token_nll", functools.partial(token_nll, chunk=4))


def batch(seed=0):
    torch.manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (3, 12))
    return ids, ids[:, -5:], torch.arange(6, 11)


@pytest.mark.parametrize("name", MODELS)
def test_model_gives_what_its_plain_logits_give(name, chunks_of_4):
    """Holds for repeated calls; the first one detects what the model does with its head's output."""
    model = MODELS[name]()
    head = NLLHead(model)
    share = torch.rand(3, 5, dtype=torch.float64)
    for seed in range(3):
        ids, targets, positions = batch(seed)
        found = head.nll(model, targets, positions, input_ids=ids)
        logits = model(input_ids=ids).logits[:, positions]
        expected = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        assert found.shape == targets.shape and torch.allclose(found, expected, rtol=1e-9)
        mine = torch.autograd.grad((found * share).sum(), list(model.parameters()))
        theirs = torch.autograd.grad((expected * share).sum(), list(model.parameters()))
        assert all(relative(a, b) < 1e-9 for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_logits_that_a_model_makes(name, chunks_of_4):
    """Only M's 15 of 36 positions have logits, and 4 at a time, unless the model changes logits after the head."""
    ids, targets, positions = batch()
    model = MODELS[name]()
    linear, made = model.lm_head.forward, []
    model.lm_head.forward = lambda states: made.append(states.shape[:-1].numel()) or linear(states)
    head = NLLHead(model)
    head.nll(model, targets, positions, input_ids=ids)  # detects which case it is
    made.clear()
    head.nll(model, targets, positions, input_ids=ids).sum().backward()
    assert sorted(made) == ([15] if name in CHANGED else sorted([4, 4, 4, 3] * 2))


@pytest.mark.parametrize("name", MODELS)
def test_what_the_model_does_with_its_heads_output_is_found_out_without_a_graph(name):
    """The detection uses two tokens, once, independent of the rows, so that ranks agree."""
    model, forwards = MODELS[name](), []
    model.model.register_forward_hook(
        lambda module, inputs, output: forwards.append((torch.is_grad_enabled(), output[0].size(1)))
    )
    ids, targets, positions = batch()
    head = NLLHead(model)
    head.nll(model, targets, positions, input_ids=ids)
    assert forwards == [(False, 2), (True, 12)]
    head.nll(model, targets, positions, input_ids=ids)
    assert forwards[2:] == [(True, 12)]


def test_a_cap_is_found_that_no_logit_comes_near():
    """An untrained model's logits are so small that a cap does not change them in bf16."""
    model = gemma2().bfloat16()
    model.config.final_logit_softcapping = 30.0
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-3)
    ids, targets, positions = batch()
    made = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: made.append(output.shape[-1]))
    NLLHead(model).nll(model, targets, positions, input_ids=ids)
    assert made == [VOCABULARY, VOCABULARY]  # logits, not an NLL


def test_model_is_left_as_it_was():
    model = MODELS["untied"]()
    ids, targets, positions = batch()
    before = model(input_ids=ids).logits
    head = NLLHead(model)
    head.nll(model, targets, positions, input_ids=ids)
    assert "forward" not in vars(model.lm_head) and torch.equal(model(input_ids=ids).logits, before)

    def breaks(**inputs):
        model(**inputs)
        raise ConnectionError

    for each in (head, NLLHead(model)):
        with pytest.raises(ConnectionError):
            each.nll(breaks, targets, positions, input_ids=ids)
    assert "forward" not in vars(model.lm_head) and torch.equal(model(input_ids=ids).logits, before)


def test_what_stood_in_the_heads_place_stands_there_again():
    model = MODELS["untied"]()
    own = model.lm_head.forward
    model.lm_head.forward = instead = lambda states: own(states)
    ids, targets, positions = batch()
    NLLHead(model).nll(model, targets, positions, input_ids=ids)
    assert model.lm_head.forward is instead


def test_hooks_on_the_head_are_called():
    """ZeRO-3 gathers and releases the head's weights in these hooks."""
    model, calls = MODELS["untied"](), []
    model.lm_head.register_forward_pre_hook(lambda *_: calls.append("before"))
    model.lm_head.register_forward_hook(lambda *_: calls.append("after"))
    ids, targets, positions = batch()
    NLLHead(model).nll(model, targets, positions, input_ids=ids)
    assert calls == ["before", "after"] * 2  # the first call is the detection


def test_no_gradient_is_needed():
    model = MODELS["tied"]()
    ids, targets, positions = batch()
    with torch.no_grad():
        found = NLLHead(model).nll(model, targets, positions, input_ids=ids)
    assert not found.requires_grad and torch.isfinite(found).all()
