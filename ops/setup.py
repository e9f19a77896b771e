"""The optional C++ extension of ebm-ops; everything else about the package is in pyproject.toml.

EBM_OPS_BUILD=0 leaves the extension out; the operators then run on plain PyTorch.
"""

import runpy
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def without_extension(reason: object) -> None:
    """Print in one line that the installation continues without the C++ operators."""
    first_line = (str(reason).strip().splitlines() or [repr(reason)])[0]
    print(f"ebm_ops: no C++ extension, plain PyTorch is used instead: {first_line}", flush=True)


def cpp_extensions() -> list:
    """The extension of `build_extension.py`, or nothing if it cannot or must not be built."""
    try:
        # Loaded by path, because a build backend does not have this folder on sys.path.
        build = runpy.run_path(str(ROOT / "build_extension.py"))
        return list(build["extensions"]())
    except Exception as error:  # e.g. a torch whose build tools do not import
        without_extension(f"{type(error).__name__}: {error}")
        return []


def optional_build_ext() -> type[build_ext]:
    """The `BuildExtension` of torch, except that a failed compilation does not fail the install."""
    from torch.utils.cpp_extension import BuildExtension

    class OptionalBuildExt(BuildExtension):
        def run(self) -> None:
            try:
                super().run()
            except (Exception, SystemExit) as error:  # setuptools reports some errors by exiting
                without_extension(f"{type(error).__name__}: {error}")
                self.extensions = []

    return OptionalBuildExt


# Asking for the metadata alone neither imports torch nor looks for a compiler.
metadata_only = not {"egg_info", "dist_info", "sdist"}.isdisjoint(sys.argv)
extensions = [] if metadata_only else cpp_extensions()

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": optional_build_ext()} if extensions else {},
)
