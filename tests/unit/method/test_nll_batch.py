"""A micro-batch of Ms, padded and packed: its tensors, and its rows' NLL compared with that of single rows."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.method import nll_batch, nll_loss
from openrlhf_mel.method.nll_batch import NLLBatch
from openrlhf_mel.method.nll_head import NLLHead
from openrlhf_mel.method.nll_plan import Row, WeightedRow

VOCABULARY = 11


def transcription(logits, weighted):
    """Compute the weighted NLL row by row without padding; `logits`: (rows, S, V), of padded rows."""
    total = 0.0
    for i, w in enumerate(weighted):
        m = torch.tensor(w.row.token_ids)
        log_probs = logits[i, -len(m) - 1 : -1].log_softmax(-1)
        total = total - w.weight * log_probs[torch.arange(len(m)), m].mean()
    return total


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9)), min_size=1, max_size=5), st.integers(0, 99))
def test_batch_loss_and_gradient_equal_the_transcription(sizes, seed):
    torch.manual_seed(seed)
    rows = [
        Row(tuple(torch.randint(1, 11, (c,)).tolist()), tuple(torch.randint(1, 11, (m,)).tolist()), "q")
        for c, m in sizes
    ]
    batch = NLLBatch.collate([WeightedRow(row, 0.3 + i) for i, row in enumerate(rows)], 0, "cpu")
    weights = batch.weights.double()
    logits = torch.randn(*batch.input_ids.shape, 11, dtype=torch.float64, requires_grad=True)
    predicting = logits[:, batch.positions].log_softmax(-1)
    token_nll = -predicting.gather(-1, batch.targets[..., None])[..., 0]
    loss = (nll_loss.row_mean(token_nll, batch.mask) * weights).sum()
    expected = transcription(logits, [WeightedRow(row, w) for row, w in zip(rows, weights, strict=True)])
    (mine,), (theirs,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    assert ((mine - theirs).norm() / theirs.norm()).item() < 1e-8
    assert loss.item() == pytest.approx(expected.item(), rel=1e-8)


def test_collate_puts_every_m_at_the_right_edge():
    rows = [WeightedRow(Row((1, 2, 3), (4, 5), "a"), 1.0), WeightedRow(Row((6,), (7,), "b"), 0.5)]
    batch = NLLBatch.collate(rows, 0, "cpu")
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5], [0, 0, 0, 6, 7]]
    assert batch.attention_mask.tolist() == [[1] * 5, [0, 0, 0, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [1, 1, 1, 0, 1]]
    assert batch.targets.tolist() == [[4, 5], [0, 7]] and batch.mask.tolist() == [[1, 1], [0, 1]]
    assert batch.positions.tolist() == [2, 3]  # positions of the tokens before M's


class Summing(torch.nn.Module):
    """A simple causal model: a hidden state is the sum of its row's embeddings so far, each scaled by its position.

    Without a mask a row begins wherever positions restart, as flash attention treats packed rows.
    """

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, 6, dtype=torch.float64)
        self.head = torch.nn.Linear(6, VOCABULARY, bias=False, dtype=torch.float64)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask, position_ids, logits_to_keep=0):
        own = self.embedding(input_ids) * (1 + position_ids)[..., None]
        if attention_mask is None:
            row = (position_ids == 0).cumsum(-1)
            earlier = torch.ones(row.size(-1), row.size(-1)).tril().bool()
            sees = ((row[:, :, None] == row[:, None]) & earlier).double()
        else:
            sees = attention_mask[:, None].double() * torch.ones(input_ids.size(-1), input_ids.size(-1)).tril()
        hidden = (sees @ own).tanh()
        return SimpleNamespace(
            logits=self.head(hidden if isinstance(logits_to_keep, int) else hidden[:, logits_to_keep])
        )


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9)), min_size=1, max_size=5), st.integers(0, 99))
def test_row_nll_is_that_of_each_row_alone(packed, sizes, seed):
    """Equal in value and gradient; token 0, also the padding, may occur in a row."""
    torch.manual_seed(seed)
    model = Summing()
    rows = [
        Row(tuple(torch.randint(0, VOCABULARY, (c,)).tolist()), tuple(torch.randint(0, VOCABULARY, (m,)).tolist()), "q")
        for c, m in sizes
    ]
    batch = NLLBatch.collate([WeightedRow(row, 1.0) for row in rows], 0, "cpu")
    found = nll_batch.row_nll(NLLHead(model), model, batch, packed)
    alone = []
    for row in rows:
        ids = torch.tensor([row.context_ids + row.token_ids])
        logits = model(ids, torch.ones_like(ids), torch.arange(ids.size(1))[None]).logits[0]
        log_probs = logits[len(row.context_ids) - 1 : -1].log_softmax(-1)
        alone.append(-log_probs[range(len(row.token_ids)), row.token_ids].mean())
    expected = torch.stack(alone)
    assert found.shape == (len(rows),) and torch.allclose(found, expected, rtol=1e-10)
    share = torch.rand(len(rows), dtype=torch.float64)
    mine = torch.autograd.grad((found * share).sum(), list(model.parameters()))
    theirs = torch.autograd.grad((expected * share).sum(), list(model.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(mine, theirs, strict=True))
