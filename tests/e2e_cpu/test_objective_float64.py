"""Eq. 10 on given logits, in float64: the policy loss and our NLL equal the formula written out."""

from types import SimpleNamespace

import pytest
import torch

from openrlhf_mel.method import nll_head, nll_loss, nll_plan
from openrlhf_mel.method.nll_batch import NLLBatch
from openrlhf_mel.method.nll_plan import Row

LONGEST = 16  # `rollout.max_new_tokens`


@pytest.mark.objective
@pytest.mark.parametrize("algorithm", ["grpo", "gspo", "dr_grpo", "rloo"])
@pytest.mark.parametrize("mean_over", ["experiences", "questions"])
@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("ms", [0, 1, 5])
def test_joint_loss_in_float64(algorithm, mean_over, micro_batches, ms):
    """The paradigm's policy loss plus the NLL on given logits equals Eq. 10 in value and gradient."""
    from openrlhf_mel.cpu import standins

    standins.install()
    from openrlhf.models import PolicyLoss

    from openrlhf_mel.settings.paradigms import PARADIGMS
    from openrlhf_mel.upstream.policy_losses import policy_loss

    torch.manual_seed(3)
    responses, length, vocabulary = 8, 9, 13
    lengths = torch.randint(1, length + 1, (responses,))
    mask = (torch.arange(length) < lengths[:, None]).double()
    logits = torch.randn(responses, length, vocabulary, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(0, vocabulary, (responses, length))
    log_probs = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    old = (log_probs + 0.4 * torch.randn_like(log_probs)).detach()
    old[::3] = (log_probs + 1e-4 * torch.randn_like(log_probs)).detach()[::3]  # within GSPO's clip
    advantages = torch.randn(responses, 1, dtype=torch.float64).expand(-1, length)
    rows = [
        Row((1,) * (2 + i), tuple(torch.randint(0, vocabulary, (1 + 2 * i,)).tolist()), f"q{i // 2}") for i in range(ms)
    ]
    m_logits = [torch.randn(len(r.token_ids), vocabulary, dtype=torch.float64, requires_grad=True) for r in rows]
    leaves = [logits, *m_logits]

    # our code: micro-batches, weighted by the plan
    paradigm = PARADIGMS[algorithm]
    upstreams = PolicyLoss(
        *paradigm.clip, token_level_loss=paradigm.aggregation == "token-mean", policy_loss_type=paradigm.loss_type
    )
    policy = policy_loss(paradigm, upstreams, SimpleNamespace(rollout=SimpleNamespace(max_new_tokens=LONGEST)))
    total = torch.zeros((), dtype=torch.float64)
    for part in torch.arange(responses).chunk(micro_batches):
        loss, *_ = policy(
            log_probs[part], old[part], advantages[part], action_mask=mask[part], batch_num_tokens=mask.sum(),
            global_batch_size=float(responses),
        )  # fmt: skip
        total = total + loss
    of = dict(zip(rows, m_logits, strict=True))
    for batch in nll_plan.plan(rows, ranks=1, mean_over=mean_over, questions=[4], max_rows=2)[0][0]:
        b = NLLBatch.collate(batch, 0, "cpu")
        padded = torch.zeros(*b.targets.shape, vocabulary, dtype=torch.float64)
        for i, w in enumerate(batch):
            padded = padded.index_put((torch.tensor(i), b.mask[i].nonzero()[:, 0]), of[w.row])
        nll = nll_head.token_nll(lambda logits: logits, padded, b.targets, chunk=3)
        weights = torch.tensor([w.weight for w in batch], dtype=torch.float64)
        total = total + (nll_loss.row_mean(nll, b.mask) * weights).sum()
    mine = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)

    # Eq. 10, written out
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(responses):
        n = int(lengths[i])
        log_ratio, a = log_probs[i, :n] - old[i, :n], advantages[i, 0]
        if algorithm == "gspo":
            ratio = log_ratio.mean().exp()
            expected = expected - torch.minimum(ratio * a, ratio.clamp(1 - 3e-4, 1 + 4e-4) * a) / responses
            continue
        ratio = log_ratio.exp()
        term = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
        share = {"grpo": n * responses, "dr_grpo": LONGEST * responses, "rloo": lengths.sum()}[algorithm]
        expected = expected - term.sum() / share
    nll = [
        -x.log_softmax(-1)[torch.arange(len(r.token_ids)), torch.tensor(r.token_ids)].mean()
        for r, x in zip(rows, m_logits, strict=True)
    ]
    for r, value in zip(rows, nll, strict=True):
        share = 1 / ms if mean_over == "experiences" else 1 / 4 / sum(r.question == o.question for o in rows)
        expected = expected + share * value
    theirs = torch.autograd.grad(expected, leaves, allow_unused=True)
    off = sum(((a - b) ** 2).sum() for a, b in zip(mine, theirs, strict=True)).sqrt()
    size = sum((b**2).sum() for b in theirs).sqrt()
    assert (off / size).item() < 1e-8
    assert total.item() == pytest.approx(expected.item(), rel=1e-8)
