"""What the registered parts of this package need, and what is said where it is not there.

The numbers behind the metric (:mod:`ebm_mmdet3d.evaluation`: numba), the generated scenes
(:mod:`ebm_mmdet3d.datasets`: numpy, scipy, OpenCV) and the operators in
:mod:`ebm_mmdet3d.compat` need less; they import where mmdet3d is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib.util import find_spec

__all__ = ["NEEDED", "explain_missing_names", "missing_packages"]

NEEDED = ("mmengine", "mmcv", "mmdet", "mmdet3d")


def missing_packages() -> list[str]:
    """Those of :data:`NEEDED` that are not installed. Nothing is imported."""
    return [name for name in NEEDED if find_spec(name) is None]


def explain_missing_names(module: str, names: Collection[str]) -> Callable[[str], object]:
    """Make a module's ``__getattr__`` for names that exist only where all packages are installed.

    Args:
        module: name of the module.
        names: the names that it would have.

    Returns:
        A function that raises ImportError, with the command that helps, for one of ``names``, and
        AttributeError for any other name.
    """

    def getattr_of_module(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise ImportError(
            f"{module}.{name} needs {', '.join(missing_packages())}, which is not installed: "
            "`pip install 'ebm-mmdet[3d]'` installs what 3D needs",
            name=module,
        )

    return getattr_of_module
