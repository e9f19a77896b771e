"""Repairs of other packages, made when ``ebm_mmdet3d`` is imported.

- :mod:`.without_cuda`: functions of mmcv and spconv that fail, or are wrong, without CUDA. With
  CUDA none of them is changed.
- :mod:`.numpy_names`: ``np.long``, which mmdet3d's object sampling uses and numpy 1.24 to 1.26
  lack.

One line in mmengine's log names what was replaced. With the environment variable
``EBM_MMDET3D_COMPAT=0`` nothing is changed.
"""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec

from .numpy_names import patch_database_sampler
from .without_cuda import patch_mmcv, patch_spconv

__all__ = ["SWITCH", "apply_compat"]

SWITCH = "EBM_MMDET3D_COMPAT"


def apply_compat() -> list[str]:
    """Make all repairs that this machine needs, and write one line about them to the log.

    A second call has nothing to do and logs nothing. Packages that are not installed are skipped.

    Returns:
        Names of the functions that this call replaced.

    Raises:
        ValueError: the environment variable ``EBM_MMDET3D_COMPAT`` is neither 0 nor 1.
    """
    wanted = os.environ.get(SWITCH) or "1"
    if wanted not in ("0", "1"):
        raise ValueError(
            f"{SWITCH}={wanted!r} in the environment; expected 1 (the default: repair what mmcv, "
            "mmdet3d and spconv lack on this machine) or 0 (leave them as they are)"
        )
    if wanted == "0":
        return []
    replaced = patch_spconv() + patch_mmcv() + patch_database_sampler()
    if replaced:
        _log(
            f"ebm_mmdet3d replaced what does not work on this machine: {', '.join(replaced)} "
            f"({SWITCH}=0 leaves it as it is)"
        )
    return replaced


def _log(message: str) -> None:
    if find_spec("mmengine"):
        from mmengine.logging import print_log

        print_log(message, logger="current")
    else:
        logging.getLogger(__name__).info(message)
