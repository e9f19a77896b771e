"""Energy-based refinement of 3D boxes for mmdet3d detectors.

Importing this package registers its parts with mmdet3d, which is what
``custom_imports = dict(imports=['ebm_mmdet3d'])`` in a config does. Overlaps of rotated boxes and
KITTI's average precision (:mod:`ebm_mmdet3d.evaluation`) need numba only and import where mmdet3d
is absent.
"""

from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from warnings import warn as _warn

__all__: list[str] = []

_missing = [name for name in ("mmengine", "mmcv", "mmdet", "mmdet3d") if not _find_spec(name)]
if _missing:
    _warn(
        f"ebm_mmdet3d registered nothing: {', '.join(_missing)} not installed. "
        "`pip install 'ebm-mmdet[3d]'` installs what 3D needs.",
        RuntimeWarning,
        stacklevel=2,
    )
else:
    try:
        # Everything that a config may name is an attribute here too: `ebm_mmdet3d.EBMKittiMetric`.
        for _name in ("registry", "datasets", "evaluation", "models"):
            if _find_spec(f"{__name__}.{_name}"):
                _module = _import_module(f"{__name__}.{_name}")
                _public = getattr(_module, "__all__", [])
                globals().update({name: getattr(_module, name) for name in _public})
                __all__ += _public
    except Exception as error:  # a broken stack must not keep a diagnosis from saying why
        _warn(
            "ebm_mmdet3d registered nothing, because mmdet3d or a package that it needs does not "
            f"import: {type(error).__name__}: {error}. `python -m ebm_mmdet` names the remedy.",
            RuntimeWarning,
            stacklevel=2,
        )
