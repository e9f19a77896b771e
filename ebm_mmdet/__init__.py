"""Energy-based refinement of bounding boxes for mmdet detectors.

Importing this package registers its parts with mmdet, which is what
``custom_imports = dict(imports=['ebm_mmdet'])`` in a config does. The mathematics in
:mod:`ebm_mmdet.energy` needs torch only and imports where mmdet is absent.
"""

from importlib.util import find_spec as _find_spec
from warnings import warn as _warn

from .version import __version__

__all__ = ["__version__"]

if all(_find_spec(name) for name in ("mmengine", "mmcv", "mmdet")):
    try:
        # Everything that a config may name is an attribute here too: `ebm_mmdet.EBMDetector`.
        from . import datasets, energy, engine, evaluation, models, registry  # noqa: F401

        for _module in (datasets, energy, engine, evaluation, models):
            globals().update({name: getattr(_module, name) for name in _module.__all__})
            __all__ += _module.__all__
    except Exception as error:  # a broken stack must not keep `python -m ebm_mmdet` from saying why
        _warn(
            "ebm_mmdet registered nothing, because the OpenMMLab packages do not import: "
            f"{type(error).__name__}: {error}. `python -m ebm_mmdet` names the remedy.",
            RuntimeWarning,
            stacklevel=2,
        )
