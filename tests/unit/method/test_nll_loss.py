import torch
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.method import nll_loss


def test_every_m_weighs_the_same_whatever_its_length():
    mask = torch.tensor([[1] * 8, [0] * 7 + [1]])
    assert nll_loss.row_mean(torch.full((2, 8), 3.0), mask).tolist() == [3.0, 3.0]


def test_what_is_masked_out_does_not_count():
    found = nll_loss.row_mean(torch.tensor([[9.0, 1.0, 3.0], [9.0, 9.0, 9.0]]), torch.tensor([[0, 1, 1], [0, 0, 0]]))
    assert found.tolist() == [2.0, 0.0]


@given(st.integers(1, 6), st.integers(0, 99))
def test_rejection_loss_is_the_mean_over_correct_responses(count, seed):
    torch.manual_seed(seed)
    log_probs = torch.randn(count, 7, dtype=torch.float64, requires_grad=True)
    lengths = torch.randint(1, 8, (count,))
    mask = (torch.arange(7) < lengths[:, None]).long()
    correct = torch.randint(0, 2, (count,)).double()
    loss = nll_loss.rejection_loss(log_probs, mask, correct, correct.sum())
    right = [-log_probs[i, : lengths[i]].mean() for i in range(count) if correct[i]]
    expected = sum(right) / len(right) if right else log_probs.sum() * 0
    (mine,) = torch.autograd.grad(loss, log_probs, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, log_probs)
    assert torch.allclose(mine, theirs, rtol=1e-10) and torch.isfinite(mine).all()
