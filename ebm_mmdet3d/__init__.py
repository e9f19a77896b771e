"""Energy-based refinement of 3D boxes for mmdet3d detectors.

Importing this package registers its parts with mmdet3d, which is what
``custom_imports = dict(imports=['ebm_mmdet3d'])`` in a config does.

Overlaps of rotated boxes, KITTI's average precision (:mod:`ebm_mmdet3d.evaluation`) and generated
scenes (:mod:`ebm_mmdet3d.datasets`) can be imported without mmdet3d, and so can this package.
Nothing is registered then, and every name of ``__all__`` raises an ImportError that names what to
install. If mmengine is installed, so that a config may have requested this package, a warning says
so at once. If all packages are installed but one cannot be imported, this one cannot either.
"""

import typing as _typing  # mypy knows TYPE_CHECKING by this name only
from warnings import warn as _warn

from .requirements import explain_missing_names as _explain_missing_names
from .requirements import missing_packages as _missing_packages

__all__ = [
    "EBM3DDetector",
    "EBM3DRefineHead",
    "EBMKittiMetric",
    "LidarScenesDataset",
    "MergeClasses3D",
    "ObjectCornerRangeFilter",
    "PSWarpHead",
    "SASSDAuxiliaryHead",
    "SASSDBEVNet",
    "SASSDHead",
    "SASSDPaper",
    "SASSDSparseEncoder",
    "__version__",
]

if _typing.TYPE_CHECKING or not _missing_packages():
    try:
        from ebm_mmdet.version import __version__

        from .compat import apply_compat as _apply_compat
        from .datasets import LidarScenesDataset, MergeClasses3D, ObjectCornerRangeFilter
        from .evaluation import EBMKittiMetric
        from .models import (
            EBM3DDetector,
            EBM3DRefineHead,
            PSWarpHead,
            SASSDAuxiliaryHead,
            SASSDBEVNet,
            SASSDHead,
            SASSDPaper,
            SASSDSparseEncoder,
        )
    except Exception as error:  # a broken package of the stack may raise any error
        raise ImportError(
            "ebm_mmdet3d does not import, because mmdet3d or a package that it needs is broken: "
            f"{type(error).__name__}: {error}. `python -m ebm_mmdet` names the remedy.",
            name=__name__,
        ) from error
    _apply_compat()  # last: mmdet3d's modules now have the functions that may be replaced
else:
    __getattr__ = _explain_missing_names(__name__, __all__)
    if "mmengine" not in _missing_packages():
        _warn(
            f"ebm_mmdet3d registered nothing: {', '.join(_missing_packages())} is not installed. "
            "`pip install 'ebm-mmdet[3d]'` installs what 3D needs.",
            RuntimeWarning,
            stacklevel=2,
        )
