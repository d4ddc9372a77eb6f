"""When norms of the two losses are available; e2e_cpu/test_objective*.py compares their values with the definition."""

from types import SimpleNamespace

import pytest
import torch

from openrlhf_mel.upstream import gradients
from openrlhf_mel.upstream.gradients import GradientLedger

pytestmark = pytest.mark.timeout(60)


class Muon:
    pass


def engine(tensor_parallel=1, offload=False, basic=object):
    optimizer = SimpleNamespace(
        averaged_gradients={0: [torch.tensor([3.0]), torch.tensor([4.0])]}, dp_process_group=None, loss_scale=2.0
    )
    return SimpleNamespace(
        optimizer=optimizer,
        basic_optimizer=basic(),
        zero_optimization_stage=lambda: 2,
        zero_use_cpu_optimizer=lambda: offload,
        autotp_size=lambda: tensor_parallel,
    )


def settings(**changes):
    flags = {"adam_offload": False, "optim": "adam"} | changes
    return SimpleNamespace(
        ds=SimpleNamespace(adam_offload=flags["adam_offload"]), actor=SimpleNamespace(optim=flags["optim"])
    )


@pytest.fixture(autouse=True)
def one_rank(monkeypatch):
    monkeypatch.setattr(gradients.dist, "all_reduce", lambda tensor, group: None)


def test_the_norm_is_of_every_gradient_before_the_loss_scale():
    assert GradientLedger(engine()).norm() == pytest.approx(2.5)


def test_under_tensor_parallelism_a_ranks_part_is_not_called_the_norm():
    assert GradientLedger(engine(tensor_parallel=2)).norm() is None


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        (engine(), settings()),
        (engine(offload=True), settings(adam_offload=True)),
        (engine(basic=Muon), settings(optim="muon")),
    ],
)
def test_the_settings_tell_what_the_engine_will(made, asked):
    assert (GradientLedger(made).norm() is None) == (gradients.without_norms(asked) is not None)
