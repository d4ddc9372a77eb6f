"""Adam's moments on a GPU, in sleep, and after a resume, with DeepSpeed's own functions on a fake GPU."""

import pytest

torch = pytest.importorskip("torch")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._pytree import tree_map_only  # noqa: E402

from openrlhf_mel.upstream import sleep  # noqa: E402

pytestmark = pytest.mark.timeout(60)
MOMENTS = ("exp_avg", "exp_avg_sq")
GPU = "cuda:0"


@pytest.fixture(autouse=True)
def pretended_gpu(monkeypatch):
    """Use fake tensors, which have a device but no content."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    pytest.importorskip("deepspeed")
    with FakeTensorMode():
        yield


def trained(mended=True):
    """Return an optimizer after one step, with all states on the GPU."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(n, device=GPU)) for n in (8, 3)])
    if mended:
        sleep.keep_out_of_checkpoints(optimizer)
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def fall_asleep(optimizer):
    from deepspeed.runtime.zero import offload_states

    offload_states.offload_adam_states(optimizer, "cpu", pin_memory=True, non_blocking=True)


def wake_up(optimizer):
    from deepspeed.runtime.zero import offload_states

    offload_states.reload_adam_states(optimizer, GPU, non_blocking=True)


def moments(optimizer):
    """Return the moments' devices. A fake tensor keeps its device when sleep gives it another tensor's storage."""
    devices = set()
    for state in optimizer.state.values():
        owner = {state[name].untyped_storage()._cdata: state[name] for name in state if torch.is_tensor(state[name])}
        devices |= {str(owner[state[name].untyped_storage()._cdata].device) for name in MOMENTS}
    return devices


def resumed(checkpoint):
    """Return a new process's optimizer with the states of a checkpoint, read into host memory."""
    optimizer = trained()
    optimizer.load_state_dict(tree_map_only(torch.Tensor, lambda value: value.to("cpu"), checkpoint))
    return optimizer


def entries(states):
    return {name for state in states for name in state}


@pytest.mark.parametrize("older", [False, True], ids=["checkpoint", "older checkpoint"])
def test_after_a_resume_the_moments_leave_the_gpu_again(older):
    before = trained(mended=not older)
    fall_asleep(before)
    assert moments(before) == {"cpu"}
    checkpoint = before.state_dict()
    assert entries(checkpoint["state"].values()) >= {"step", *MOMENTS}
    assert any(name.endswith(sleep.BUFFER) for name in entries(checkpoint["state"].values())) == older
    after = resumed(checkpoint)
    assert entries(after.state.values()) == {"step", *MOMENTS} and moments(after) == {GPU}
    for _ in range(2):
        fall_asleep(after)
        assert moments(after) == {"cpu"}
        wake_up(after)


def test_who_sleeps_while_it_is_saved_wakes_up():
    optimizer = trained()
    fall_asleep(optimizer)
    optimizer.state_dict()
    wake_up(optimizer)
    optimizer.step()
