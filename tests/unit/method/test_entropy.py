"""Entropy estimated from sampled tokens, compared with the distribution's own."""

import pytest
import torch

from openrlhf_mel.method.entropy import SampledEntropy


def test_the_mean_over_own_tokens_of_all_micro_batches():
    entropy = SampledEntropy()
    entropy.add(torch.tensor([[-1.0, -2.0], [-3.0, -50.0]]), torch.tensor([[1, 1], [1, 0]]))
    entropy.add(torch.tensor([[-4.0]]), torch.tensor([[1]]))
    assert entropy.sums.tolist() == [10.0, 4.0]
    entropy.reset()
    assert entropy.sums.tolist() == [0.0, 0.0]


def test_it_estimates_the_entropy():
    torch.manual_seed(0)
    log_probs = torch.randn(7, dtype=torch.float64).log_softmax(-1)
    drawn = torch.multinomial(log_probs.exp(), 20_000, replacement=True)
    entropy = SampledEntropy()
    entropy.add(log_probs[drawn][None], torch.ones(1, 20_000))
    total, tokens = entropy.sums.tolist()
    assert total / tokens == pytest.approx(-(log_probs.exp() * log_probs).sum().item(), rel=0.02)
