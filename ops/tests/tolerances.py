"""How far two computations of the same number may lie apart: one table for every test.

float16 and bfloat16 results are computed in float32 and rounded once, hence about half their
precision (2^-11, 2^-8) and a margin of a few.
"""

import torch

TOLERANCE: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
    torch.float32: {"rtol": 1e-4, "atol": 2e-5},
    torch.float16: {"rtol": 2e-3, "atol": 1e-3},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 8e-3},
}
