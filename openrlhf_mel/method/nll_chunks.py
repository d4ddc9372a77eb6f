"""How many positions' logits are alive at once while the NLL is computed. Without torch: preflight reckons with it too."""

from __future__ import annotations

CHUNK = 128  # positions whose logits are alive at once: large enough for a GPU, 78 MB of fp32 at 151,936 tokens
# Chunks at most: the backward adds up the head's gradient chunk by chunk in bf16, each time with a rounding error. With
# 16 the gradient is off by 0.4%, with 64 by 0.9%, at once by 0.2%. Longer chunks take less memory than a sum in fp32 up
# to some 11,000 positions: 14 bytes x 151,936 for each further one, against 2 x 151,936 x 4,096 for Qwen3-8B's head.
CHUNKS = 16


def chunk_length(positions: int) -> int:
    """Of how many of `positions` logits are alive at once."""
    return max(CHUNK, -(-positions // CHUNKS))
