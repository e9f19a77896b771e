"""Packaging of ebm-mmdet: pure Python, one optional C++ extension, and the configs.

EBM_OPS_BUILD=0 leaves the C++ extension out; the operators then run on plain PyTorch.
"""

import runpy
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# mmengine and mim look for `ebm_mmdet::ebm/name.py` in `<package>/.mim/configs`.
MIM_FOLDER = Path("ebm_mmdet", ".mim")
MIM_CONTENT = ("configs", "tools", "model-index.yml")


def requirements(name: str) -> list[str]:
    """Lines of requirements/<name>.txt without comments and blank lines."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in (raw.split("#")[0].strip() for raw in lines) if line]


def without_extension(reason: object) -> None:
    """Say in one line that the install goes on without the C++ operators."""
    first_line = (str(reason).strip().splitlines() or [repr(reason)])[0]
    print(f"ebm_ops: no C++ extension, plain PyTorch is used instead: {first_line}", flush=True)


def cpp_extensions() -> list:
    """The extension of `ebm_ops/build.py`, or nothing where it cannot or shall not be built."""
    try:
        # By path: importing the package would run code that the build does not need.
        build = runpy.run_path(str(ROOT / "ebm_ops" / "build.py"))
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


class BuildPyWithConfigs(build_py):
    """`build_py` that adds the configs: copied into a wheel, linked in an editable install."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            self.link_mim_content()
        else:
            self.copy_mim_content()

    def copy_mim_content(self) -> None:
        target = Path(self.build_lib) / MIM_FOLDER
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in MIM_CONTENT:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
                shutil.copytree(source, target / name, ignore=ignore)
            elif source.exists():
                shutil.copy2(source, target / name)

    def link_mim_content(self) -> None:
        """Relative links, so that edits of a config are seen at once (ignored by git)."""
        folder = ROOT / MIM_FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in MIM_CONTENT:
            if (ROOT / name).exists():
                (folder / name).symlink_to(Path("..", "..", name))


version = runpy.run_path(str(ROOT / "ebm_mmdet" / "version.py"))["__version__"]
# Asking for the metadata alone neither imports torch nor looks for a compiler.
metadata_only = not {"egg_info", "dist_info", "sdist"}.isdisjoint(sys.argv)
extensions = [] if metadata_only else cpp_extensions()

setup(
    name="ebm-mmdet",
    version=version,
    description="Energy-based bounding-box regression as a plug-in for MMDetection 3",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["ebm_mmdet*", "ebm_ops*"]),
    # Spelled out so that an editable install is one path on sys.path: new packages just appear.
    package_dir={"": "."},
    package_data={"": ["*.cpp", "*.h", "py.typed"]},
    install_requires=requirements("runtime"),
    extras_require={name: requirements(name) for name in ("3d", "test", "docs")},
    ext_modules=extensions,
    cmdclass={
        "build_py": BuildPyWithConfigs,
        **({"build_ext": optional_build_ext()} if extensions else {}),
    },
    zip_safe=False,
)
