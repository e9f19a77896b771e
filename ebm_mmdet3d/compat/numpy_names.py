"""Lets mmdet3d 1.4 sample objects under the numpy that it asks for.

Its ``DataBaseSampler`` says ``np.long``, which numpy dropped in 1.24 and has again since 2.0; but
numpy 2 is out of reach (requirements/constraints.txt). Without it no recipe with ``ObjectSample``
can train.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType

import numpy as np

__all__ = ["patch_database_sampler"]


class _NumpyWithLong(ModuleType):
    """numpy, and ``long``."""

    long = np.int64

    def __getattr__(self, name: str):
        return getattr(np, name)


def patch_database_sampler() -> list[str]:
    """Put ``np.long`` into mmdet3d's module where numpy has none; numpy itself is left alone.

    Returns:
        Names of what this call added: nothing where mmdet3d is not installed, where numpy has
        ``long``, and from the second call on.
    """
    if not find_spec("mmdet3d"):
        return []
    dbsampler = importlib.import_module("mmdet3d.datasets.transforms.dbsampler")
    # Not hasattr: numpy warns about names that it is going to have.
    if "long" in vars(np) or isinstance(dbsampler.np, _NumpyWithLong):
        return []
    dbsampler.np = _NumpyWithLong("numpy")
    return ["mmdet3d.datasets.transforms.dbsampler.np.long"]
