"""A copy of the sources and environments to install them into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
FOLDERS = ("configs", "ebm_mmdet", "ops", "requirements", "tools")
FILES = ("LICENSE", "MANIFEST.in", "README.md", "model-index.yml", "pyproject.toml", "setup.py")


def copy_sources(target: Path) -> Path:
    """What a clone holds, without anything built."""
    ignore = shutil.ignore_patterns(".mim", "*.so", "__pycache__", "*.egg-info")
    for name in FOLDERS:
        shutil.copytree(REPO / name, target / name, ignore=ignore)
    for name in FILES:
        shutil.copy2(REPO / name, target / name)
    return target


def run(*command: object, cwd: Path, check: bool = True, **variables: str):
    """Run a command outside the repository, without what this process has on its path."""
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
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    packages = sysconfig.get_path("purelib")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # A plain path: the .pth files over there, among them our editable install, are not read.
    (folder / "lib" / version / "site-packages" / "outer.pth").write_text(packages + "\n")
    return folder / "bin" / "python"


def pip_install(python: Path, *arguments: object, cwd: Path, **variables: str):
    """Install into another environment with this environment's pip."""
    return run(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--no-build-isolation", "--no-deps", "--no-index", *arguments),
        cwd=cwd,
        **variables,
    )
