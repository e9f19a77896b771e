"""Packages that registered parts need, and the message if one is missing.

The mathematics (:mod:`ebm_mmdet.energy`) needs only torch and can be imported without the OpenMMLab
packages; so the package around it has to be importable too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from importlib.util import find_spec

__all__ = ["NEEDED", "diagnosis_is_asked_for", "explain_missing_names", "missing_packages"]

NEEDED = ("mmengine", "mmcv", "mmdet")
REMEDY = (
    "in a clone of ebm-mmdet run `pip install ./ops '.[openmmlab]'`, or '.[onedl]' for the "
    "maintained line (docs/getting_started.md; mmcv is compiled)"
)


def missing_packages(needed: Collection[str] = NEEDED) -> list[str]:
    """Those of ``needed`` that are not installed. Nothing is imported."""
    return [name for name in needed if find_spec(name) is None]


def explain_missing_names(
    module: str, names: Collection[str], needed: Collection[str] = NEEDED, remedy: str = REMEDY
) -> Callable[[str], object]:
    """Make a module's ``__getattr__`` for names that exist only where all packages are installed.

    Args:
        module: name of the module.
        names: the names that it would have.
        needed: the required packages.
        remedy: the command that installs them.

    Returns:
        A function that raises ImportError, with the remedy, for one of ``names``, and
        AttributeError for any other name.
    """

    def getattr_of_module(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise ImportError(
            f"{module}.{name} needs {', '.join(missing_packages(needed))}, which is not "
            f"installed: {remedy}",
            name=module,
        )

    return getattr_of_module


def diagnosis_is_asked_for() -> bool:
    """Whether Python was started as ``python -m ebm_mmdet`` alone, which runs on a broken stack."""
    options = sys.orig_argv[1:]
    return "-m" in options and options[options.index("-m") + 1 :] == ["ebm_mmdet"]
