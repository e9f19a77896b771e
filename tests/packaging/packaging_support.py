"""A copy of the sources, and environments to install them into."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
FOLDERS = ("configs", "ebm_mmdet", "ebm_mmdet3d", "ops", "requirements", "tools")
FILES = ("LICENSE", "MANIFEST.in", "README.md", "model-index.yml", "pyproject.toml", "setup.py")


def copy_sources(target: Path) -> Path:
    """The files of a clone, without anything built."""
    ignore = shutil.ignore_patterns(".mim", "*.so", "__pycache__", "*.egg-info", "build")
    for name in FOLDERS:
        shutil.copytree(REPO / name, target / name, ignore=ignore)
    for name in FILES:
        shutil.copy2(REPO / name, target / name)
    return target


def run(*command: object, cwd: Path, check: bool = True, **variables: str):
    """Run a command outside the repository, without the path entries of this process."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"PYTHONWARNINGS": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 or not check, done.stdout[-4000:]
    return done


def new_environment(folder: Path) -> Path:
    """A virtual environment that sees this one's packages, but not its install of ours.

    Returns:
        Its Python.
    """
    python = empty_environment(folder)
    # A plain path: the .pth files over there, among them our editable install, are not read.
    (site_packages(folder) / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def environment_with(folder: Path, *names: str) -> Path:
    """A virtual environment with these distributions of this one and what they require, no more.

    Returns:
        Its Python.
    """
    python = empty_environment(folder)
    for found in closure(*names):
        for top in {file.parts[0] for file in found.files if file.parts[0] not in ("..", "bin")}:
            link = site_packages(folder) / top
            if not link.is_symlink():
                link.symlink_to(found.locate_file(top))
    return python


def closure(*names: str) -> list[Distribution]:
    """These installed distributions and all that they require, without extras."""
    waiting, found = list(names), {}
    while waiting:
        name = re.match(r"[\w.-]+", waiting.pop()).group().lower()
        if name not in found:
            try:
                found[name] = distribution(name)
            except PackageNotFoundError:  # for another platform
                continue
            required = found[name].requires or []
            waiting += [line for line in required if "extra ==" not in line]
    return list(found.values())


def empty_environment(folder: Path) -> Path:
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    return folder / "bin" / "python"


def site_packages(folder: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return folder / "lib" / version / "site-packages"


def pip_install(python: Path, *arguments: object, cwd: Path, **variables: str):
    """Install into another environment with this environment's pip."""
    return run(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--no-build-isolation", "--no-deps", "--no-index", *arguments),
        cwd=cwd,
        **variables,
    )
