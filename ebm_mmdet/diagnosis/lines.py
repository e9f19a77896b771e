"""The two lines of OpenMMLab packages, and detection of the installed one.

OpenMMLab's own packages are no longer developed. OneDL continues them under other distribution
names with the same modules: `import mmcv` is served by `mmcv` or by `onedl-mmcv`. An environment
must hold only one of the lines, because the packages of both would overwrite each other's files.

Only the standard library is used, so that this works even if everything else is broken.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODULES = ("mmengine", "mmcv", "mmdet")


@dataclass(frozen=True)
class Line:
    """One line of the packages.

    Attributes:
        name: name for the user.
        stack: its name in `make STACK=...` and as an extra of our distribution.
        distributions: module -> distribution that contains it.
        pins: distribution -> tested version.
        opencv: the version of OpenCV that is compatible with its numpy.
    """

    name: str
    stack: str
    distributions: Mapping[str, str]
    pins: Mapping[str, str]
    opencv: str

    @property
    def make(self) -> str:
        """The command that makes a working environment from a clone."""
        return "`make install`" if self is OPENMMLAB else f"`make install STACK={self.stack}`"

    def install(self, module: str) -> str:
        """The pip command that installs one module and keeps the other packages of this line."""
        name = self.distributions[module]
        # Their setup.py imports torch.
        isolation = "--no-build-isolation " if self.is_built_with_torch(module) else ""
        return f"pip install {isolation}{name}=={self.pins[name]}"

    def is_built_with_torch(self, module: str) -> bool:
        return module == "mmcv" or (module == "mmdet" and self is ONEDL)


OPENMMLAB = Line(
    "OpenMMLab",
    "openmmlab",
    {name: name for name in MODULES},
    {"mmengine": "0.10.7", "mmcv": "2.1.0", "mmdet": "3.3.0"},
    opencv="4.11.0.86",
)
ONEDL = Line(
    "OneDL",
    "onedl",
    {"mmengine": "onedl-mmengine", "mmcv": "onedl-mmcv", "mmdet": "onedl-mmdetection"},
    {"onedl-mmengine": "0.10.12", "onedl-mmcv": "2.3.6", "onedl-mmdetection": "3.5.1"},
    opencv="4.12.0.88",
)
LINES = (OPENMMLAB, ONEDL)
DISTRIBUTIONS = tuple(name for line in LINES for name in line.distributions.values())
# The first version of each module that only OneDL has, for modules without a distribution.
_FIRST_OF_ONEDL = {"mmcv": (2, 3), "mmdet": (3, 4)}


def release(version: str | None) -> tuple[int, ...]:
    """The numbers of a version.

    Args:
        version: '2.13.0+cpu' gives (2, 13, 0); None or an invalid version gives ().
    """
    match = re.match(r"\d+(\.\d+)*", version or "")
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def distribution_version(name: str) -> str | None:
    """The version in the metadata of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def module_version(name: str) -> str | None:
    """`__version__` of one of `MODULES`, read from its file, because importing it may fail."""
    try:
        spec = importlib.util.find_spec(name)
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except (ImportError, AttributeError, TypeError, ValueError, OSError):
        return None
    match = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    return match.group(1) if match else None


def installed_packages() -> dict[str, str | None]:
    """Distribution -> version or None, for the distributions of both lines.

    A module without a distribution, such as a source folder on the path, counts for the line to
    which its `__version__` belongs.
    """
    found = {name: distribution_version(name) for name in DISTRIBUTIONS}
    for module in MODULES:
        if not any(found[line.distributions[module]] for line in LINES):
            version = module_version(module)
            later = release(version) >= _FIRST_OF_ONEDL.get(module, (1,))
            found[(ONEDL if version and later else OPENMMLAB).distributions[module]] = version
    return found


def lines_of(module: str, versions: Mapping[str, str | None]) -> list[Line]:
    """The lines whose distribution of this module is among the installed `versions`."""
    return [line for line in LINES if versions.get(line.distributions[module])]


def find_line(versions: Mapping[str, str | None]) -> Line | None:
    """The line that most of the installed packages belong to, or None without any.

    Args:
        versions: distribution -> version or None; distributions that are left out count as not
            installed.
    """
    votes = {line.stack: 0 for line in LINES}
    for module in MODULES:
        for line in lines_of(module, versions):
            votes[line.stack] += 1
    best = max(LINES, key=lambda line: votes[line.stack])
    return best if votes[best.stack] else None
