"""The statements of docs/method.md about the paradigms' losses hold in upstream's code."""

from types import SimpleNamespace

import pytest
import torch

from openrlhf_mel.settings.mel_options import MELConfig

LENGTHS = (3, 1, 4, 2)
MASK = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).float()
ADVANTAGES = torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3])  # RLOO's, for one correct response of four


def gradient_of_rloo(clip, ratio):
    """Return the gradient, (B, T), of upstream's loss in the log-probs when every token has this ratio."""
    from openrlhf.models import PolicyLoss

    old = torch.full(MASK.shape, -1.0)
    log_probs = (old + torch.tensor(ratio).log()).requires_grad_()
    loss = PolicyLoss(clip, clip, token_level_loss=True)
    tokens = MASK.sum()
    value, *_ = loss(log_probs, old, ADVANTAGES[:, None].expand_as(MASK), action_mask=MASK, batch_num_tokens=tokens)
    return torch.autograd.grad(value, log_probs)[0]


def test_rloos_clip_acts_only_when_a_rollout_has_several_optimizer_steps():
    """In the first step the ratio is 1, and the gradient is the paper's: summed over a response's tokens, unclipped."""
    papers = -(ADVANTAGES[:, None] * MASK) / len(LENGTHS)
    mean_length = MASK.sum() / len(LENGTHS)
    torch.testing.assert_close(gradient_of_rloo(0.2, 1.0) * mean_length, papers)
    torch.testing.assert_close(gradient_of_rloo(1e9, 1.0) * mean_length, papers)
    clipped, free = gradient_of_rloo(0.2, 1.5), gradient_of_rloo(1e9, 1.5)
    assert not clipped[0].any() and free[0].any()


def test_upstreams_added_terms_are_means_over_the_steps_tokens():
    """This holds for every `loss_agg_mode`. Under Dr. GRPO their weight would be coefficient x L / mean length."""
    from openrlhf.models.loss import aggregate_loss

    terms = torch.rand(MASK.shape, generator=torch.Generator().manual_seed(0))
    info = {
        "dp_size": 1,
        "batch_num_tokens": MASK.sum(),
        "global_batch_size": torch.tensor(4.0),
    }  # upstream passes these
    torch.testing.assert_close(aggregate_loss(terms, MASK, **info), (terms * MASK).sum() / sum(LENGTHS))


@pytest.mark.parametrize(
    ("algorithm", "samples"), [("rft", [1.0, 1.0, 0.5, 0.5, 1.0]), ("grpo", [2.0, 2.0, 2.0, 2.0, 2.0])]
)
def test_a_steps_samples_are_those_that_are_learned_and_its_tokens_are_all(algorithm, samples):
    """The mean entropy, measured with `actor.entropy_coef` 0, covers all responses, also under rft."""
    from openrlhf_mel.upstream.rejection import iter_counting_correct

    strategy = SimpleNamespace(args=SimpleNamespace(mel=MELConfig(algorithm=algorithm)))
    scores = [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.0, 1.0)]  # windows of two; the last holds one
    batches = [SimpleNamespace(action_mask=MASK[:2], scores=torch.tensor(pair)) for pair in scores]
    found = list(iter_counting_correct(iter(batches), strategy, 2, lambda batch: batch.action_mask))
    assert [item for item, _ in found] == batches
    tokens = sum(LENGTHS[:2])
    assert [info["batch_num_tokens"].item() for _, info in found] == [tokens, tokens, tokens, tokens, tokens / 2]
    # each of a window's two micro-batches has half; upstream also divides a short window's by two
    assert [info["global_batch_size"].item() for _, info in found] == [*samples[:4], samples[4] / 2]
