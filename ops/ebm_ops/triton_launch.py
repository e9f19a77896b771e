"""How the Triton kernels of all operators are launched."""

from __future__ import annotations

from typing import Any

import triton


def launch_options(channels: int) -> tuple[int, dict[str, Any]]:
    """Channels per program, and the options of the launch.

    Multiplications and additions are fused whatever Triton's default or its environment variable
    says, so that results have the same bits everywhere on one kind of GPU.
    """
    block = min(triton.next_power_of_2(channels), 256)
    return block, {"num_warps": max(1, block // 64), "enable_fp_fusion": True}
