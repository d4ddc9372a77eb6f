"""Each paradigm's estimator in upstream's code is its paper's, compared with plain Python."""

import statistics
from types import SimpleNamespace

import pytest
import torch

from openrlhf_mel.settings.paradigms import PARADIGMS

GROUP = 4
REWARDS = ((1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0))
LENGTHS = ((3, 1, 2, 4), (2, 2, 5, 1), (1, 3, 1, 2))


def wanted(estimator, group):
    """Return a group's advantages, before any normalisation over the rollout."""
    mean = statistics.mean(group)
    if estimator == "rloo":
        return [r - (sum(group) - r) / (len(group) - 1) for r in group]
    if estimator == "group_norm":
        return [(r - mean) / (statistics.stdev(group) or 1) for r in group]
    return list(group) if estimator == "reinforce" else [r - mean for r in group]


def normalised(advantages, lengths):
    """Normalise over the rollout's tokens: each response counts once per token."""
    tokens = [a for a, length in zip(advantages, lengths, strict=True) for _ in range(length)]
    mean, deviation = statistics.mean(tokens), statistics.pstdev(tokens)
    return [(a - mean) / deviation for a in advantages]


def upstreams(estimator):
    """Return each response's advantage from upstream's experience maker; it is the same for all its tokens."""
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    args = SimpleNamespace(
        algo=SimpleNamespace(advantage=SimpleNamespace(estimator=estimator, gamma=1.0, no_std_norm=False)),
        reward=SimpleNamespace(clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None),
        rollout=SimpleNamespace(n_samples_per_prompt=GROUP),
    )
    maker = RemoteExperienceMaker(
        None, None, None, None, SimpleNamespace(value=0.0), SimpleNamespace(args=args), tokenizer=None
    )
    experiences = []
    for i, (rewards, lengths) in enumerate(zip(REWARDS, LENGTHS, strict=True)):
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        experiences.append(
            Experience(
                action_mask=mask, kl=torch.zeros(mask.shape), rewards=torch.tensor(rewards),
                index=list(range(i * GROUP, (i + 1) * GROUP)),
            )
        )  # fmt: skip
    found = []
    for made in maker.compute_advantages_and_returns(experiences):
        for advantages, mask in zip(made.advantages, made.action_mask.bool(), strict=True):
            assert (advantages[mask] == advantages[0]).all()
            found.append(advantages[0].item())
    return found


@pytest.mark.parametrize("name", [name for name, paradigm in PARADIGMS.items() if paradigm.estimator])
def test_estimator(name):
    estimator = PARADIGMS[name].estimator
    expected = [a for group in REWARDS for a in wanted(estimator, group)]
    if name.startswith("reinforce++"):
        expected = normalised(expected, [length for group in LENGTHS for length in group])
    assert upstreams(estimator) == pytest.approx(expected, rel=1e-5, abs=1e-6)
