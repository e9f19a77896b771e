"""Lets mmdet3d 1.4 sample objects under the numpy versions that it requires.

Its ``DataBaseSampler`` uses ``np.long``, which numpy removed in 1.24 and added again in 2.0; but
numpy 2 cannot be used here (requirements/constraints.txt). Without ``np.long`` no recipe with
``ObjectSample`` can train.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType

import numpy as np

__all__ = ["patch_database_sampler"]


class _NumpyWithLong(ModuleType):
    """numpy with the additional name ``long``."""

    long = np.int64

    def __getattr__(self, name: str):
        return getattr(np, name)


def patch_database_sampler() -> list[str]:
    """Add ``np.long`` in mmdet3d's module if numpy lacks it; numpy itself is not changed.

    Returns:
        Names that this call added: none if mmdet3d is not installed, if numpy has ``long``, and
        from the second call on.
    """
    if not find_spec("mmdet3d"):
        return []
    dbsampler = importlib.import_module("mmdet3d.datasets.transforms.dbsampler")
    # Not hasattr, because numpy warns about names that it will have in the future.
    if "long" in vars(np) or isinstance(dbsampler.np, _NumpyWithLong):
        return []
    dbsampler.np = _NumpyWithLong("numpy")
    return ["mmdet3d.datasets.transforms.dbsampler.np.long"]
