"""Differentiable pooling operators for CPU and GPU; torch is the only requirement.

One folder per operator: `reference.py` (plain PyTorch, the definition), `cpu.cpp` (C++),
`triton.py` (GPU), and the public function in `__init__.py`.
"""

from ebm_ops.backends import Backend, backend_info
from ebm_ops.prroi_pool import PrRoIPool, prroi_pool
from ebm_ops.prroi_pool.levels import prroi_pool_levels
from ebm_ops.rotated_grid_pool import RotatedGridPool, rotated_grid_pool

__all__ = [
    "Backend",
    "PrRoIPool",
    "RotatedGridPool",
    "backend_info",
    "prroi_pool",
    "prroi_pool_levels",
    "rotated_grid_pool",
]
