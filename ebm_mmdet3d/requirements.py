"""Packages that the registered parts of this package need, and the message if one is missing.

The numbers behind the metric (:mod:`ebm_mmdet3d.evaluation`: numba), the generated scenes
(:mod:`ebm_mmdet3d.datasets`: numpy, scipy, OpenCV) and the operators in
:mod:`ebm_mmdet3d.compat` need less; they can be imported without mmdet3d.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ebm_mmdet import requirements

__all__ = ["NEEDED", "explain_missing_names", "missing_packages"]

NEEDED = (*requirements.NEEDED, "mmdet3d")
REMEDY = "`pip install 'ebm-mmdet[3d]'` installs what 3D needs"


def missing_packages() -> list[str]:
    """Those of :data:`NEEDED` that are not installed. Nothing is imported."""
    return requirements.missing_packages(NEEDED)


def explain_missing_names(module: str, names: Collection[str]) -> Callable[[str], object]:
    """See :func:`ebm_mmdet.requirements.explain_missing_names`."""
    return requirements.explain_missing_names(module, names, NEEDED, REMEDY)
