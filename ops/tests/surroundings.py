"""Where the tests run: the package, its sources, a compiler, other processes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ebm_ops

TESTS = Path(__file__).resolve().parent
PROJECT = TESTS.parent
SOURCES = Path(ebm_ops.__file__).resolve().parent
HAS_CPP = ebm_ops.backend_info()["cpu"].name == "cpp"
COMPILER = next((c for c in (os.environ.get("CXX"), "g++", "c++") if c and shutil.which(c)), None)


def load_build_extension():
    """The module beside `setup.py` that describes the C++ extension; it is not installed."""
    spec = importlib.util.spec_from_file_location("build_extension", PROJECT / "build_extension.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_python(script: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a script that can import the package and the modules of these tests."""
    path = [str(SOURCES.parent), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **environment},
        timeout=600,
    )
