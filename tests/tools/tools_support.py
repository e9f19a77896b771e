"""Running the command-line tools from tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def environment(**extra: str) -> dict[str, str]:
    """For subprocesses: finds the test's modules, and does not wait for a display or a GPU."""
    paths = [str(Path(__file__).parent), str(REPO), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHON": sys.executable,
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONWARNINGS": "ignore",
        **extra,
    }


def run(*command: object, **options) -> subprocess.CompletedProcess:
    """Run a command from the repository's root and return it with its output as text."""
    options.setdefault("env", environment())
    options.setdefault("timeout", 300)
    return subprocess.run(
        [str(part) for part in command],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
