"""The part of a rollout that is trained on."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.settings import batches

pytestmark = pytest.mark.timeout(60)


def arguments(ranks, rollout_micro, train_micro, group, dynamic=False, train_batch=8):
    return SimpleNamespace(
        actor=SimpleNamespace(num_nodes=1, num_gpus_per_node=ranks),
        ds=SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
        rollout=SimpleNamespace(micro_batch_size=rollout_micro, n_samples_per_prompt=group),
        train=SimpleNamespace(micro_batch_size=train_micro, batch_size=train_batch, dynamic_batch_enable=dynamic),
    )


def shares(samples, ranks, micro):
    """Divide a rollout's micro-batches over ranks as upstream does."""
    made = [tuple(samples[i : i + micro]) for i in range(0, len(samples), micro)]
    size = -(-len(made) // ranks)
    return [sum(made[i * size : (i + 1) * size], ()) for i in range(ranks)]


@given(
    ranks=st.integers(1, 8), rollout_micro=st.integers(1, 8), train_micro=st.integers(1, 8),
    group=st.integers(1, 8), groups=st.integers(0, 40),
)  # fmt: skip
def test_every_rank_gets_as_many_micro_batches_and_groups_stay_whole(ranks, rollout_micro, train_micro, group, groups):
    samples = list(range(groups * group))
    kept = batches.whole(samples, arguments(ranks, rollout_micro, train_micro, group))
    assert kept == samples[: len(kept)] and len(kept) % group == 0
    sizes = {len(share) for share in shares(kept, ranks, rollout_micro)}
    assert len(sizes) == 1 and sizes.pop() % train_micro == 0
    more = len(kept) + group
    if more <= len(samples) and ranks == 1:  # no group is left out unnecessarily
        assert more % train_micro


def test_dynamic_batches_train_whole_optimizer_steps():
    args = arguments(2, 4, 4, group=4, dynamic=True, train_batch=16)
    assert len(batches.whole(list(range(40)), args)) == 32
    assert batches.whole(list(range(12)), args) == []


@given(micro_batches=st.integers(0, 30), window=st.integers(1, 8), samples=st.integers(1, 5))
def test_windows_end_when_full_and_with_the_rollout(micro_batches, window, samples):
    """The expected values come from walking through the micro-batches one by one."""
    ends, sizes, gone = [], [], 0
    for i in range(micro_batches):
        gone += 1
        ends.append(gone == window or i == micro_batches - 1)
        if ends[-1]:
            sizes.append(gone * samples)
            gone = 0
    steps = batches.windowed(micro_batches, window, samples)
    assert (steps.ends, steps.samples) == (tuple(ends), tuple(sizes))
    assert steps.share * window == pytest.approx(1) and sum(steps.samples) == micro_batches * samples


def test_upstream_chooses_where_dynamic_steps_end():
    steps = batches.dynamic([0, 0, 1, 1, 0, 1], 16)
    assert steps == batches.OptimizerSteps((False, False, True, True, False, True), (16, 16, 16), 1.0)


@given(questions=st.integers(0, 30), batch=st.integers(1, 8), episodes=st.integers(1, 3))
def test_what_a_full_rollout_leaves_unfinished_goes_on_in_a_later_full_one(questions, batch, episodes):
    args = arguments(1, 1, 1, 4)
    args.rollout.batch_size, args.train.num_episodes = batch, episodes
    sizes = [min(batch, questions - done) for done in range(0, questions, batch)] * episodes
    found = batches.Episodes.of(questions, args)
    assert found.rollouts == len(sizes)
    for before, size in enumerate(sizes):
        assert found.is_full(before) == (size == batch)
        assert found.can_carry(before) == (size == batch and batch in sizes[before + 1 :])
