import pytest

from openrlhf_mel.cpu import standins


@pytest.fixture(scope="session", autouse=True)
def importable_upstream():
    """OpenRLHF imports vLLM and flash-attn at the top of its modules."""
    import torch

    if not torch.cuda.is_available():
        standins.install()
