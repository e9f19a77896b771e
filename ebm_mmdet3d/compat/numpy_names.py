"""Lets mmdet3d 1.4 sample objects under the numpy that it asks for.

Its ``DataBaseSampler`` says ``np.long``, which numpy dropped in 1.24 and has again since 2.0; but
numpy 2 is out of reach (requirements/constraints.txt). Without it no recipe with ``ObjectSample``
can train.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

__all__ = ["give_database_sampler_its_names"]


class _NumpyWithLong(ModuleType):
    """numpy, and ``long``."""

    long = np.int64

    def __getattr__(self, name: str):
        return getattr(np, name)


def give_database_sampler_its_names() -> bool:
    """Put ``np.long`` into mmdet3d's module where numpy has none; numpy itself is left alone.

    Returns:
        Whether this call changed anything.
    """
    from mmdet3d.datasets.transforms import dbsampler

    # Not hasattr: numpy warns about names that it is going to have.
    if "long" in vars(np) or isinstance(dbsampler.np, _NumpyWithLong):
        return False
    dbsampler.np = _NumpyWithLong("numpy")
    return True
