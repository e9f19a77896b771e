"""Packaging of ebm-mmdet: pure Python and the configs. The operators are another package, in ops/.

Installing it needs neither torch nor a compiler. `pip install ./ops .` installs both from a clone,
`pip install -e ./ops -e .` for development.
"""

import re
import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# mmengine and mim look for `ebm_mmdet::ebm/name.py` in `<package>/.mim/configs`.
MIM_FOLDER = Path("ebm_mmdet", ".mim")
MIM_CONTENT = ("configs", "tools", "model-index.yml")
# Parts that made the numbers of the documentation, on their own data, are not installed.
NOT_INSTALLED = (
    "configs/nuclei",
    "configs/bbbc039",
    "configs/coco_open",
    "tools/lab",
    "tools/setup_env.sh",
)
# Each with a file in requirements/; `3d` is one more, with what it adds.
EXTRAS = ("openmmlab", "onedl", "data", "onnx", "test", "docs")
IMPORTS_LAB = re.compile(r"^\s*(from|import) lab\b", re.MULTILINE)


def requirements(name: str) -> list[str]:
    """Lines of requirements/<name>.txt without comments and blank lines."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in (raw.split("#")[0].strip() for raw in lines) if line]


def left_out(folder: str, names: list[str]) -> list[str]:
    """The `names` in `folder` that a wheel does not contain; for :func:`shutil.copytree`."""

    def is_left_out(path: Path) -> bool:
        if path.name == "__pycache__" or path.relative_to(ROOT).as_posix() in NOT_INSTALLED:
            return True
        # A command that imports a package that is not installed would not start.
        return path.suffix == ".py" and bool(IMPORTS_LAB.search(path.read_text(encoding="utf-8")))

    return [name for name in names if is_left_out(Path(folder, name))]


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
                shutil.copytree(source, target / name, ignore=left_out)
            elif source.exists():
                shutil.copy2(source, target / name)

    def link_mim_content(self) -> None:
        """Relative links, so that edits of a config take effect at once (ignored by git)."""
        folder = ROOT / MIM_FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in MIM_CONTENT:
            if (ROOT / name).exists():
                (folder / name).symlink_to(Path("..", "..", name))


version = runpy.run_path(str(ROOT / "ebm_mmdet" / "version.py"))["__version__"]

setup(
    name="ebm-mmdet",
    version=version,
    description="Energy-based bounding-box regression as a plug-in for MMDetection 3",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["ebm_mmdet*"]),
    # Explicit, so that an editable install is one path on sys.path, where new packages are found.
    package_dir={"": "."},
    package_data={"": ["py.typed"], "ebm_mmdet.apis.auditing": ["index.html"]},
    # The operators come from the same clone: the two are installed together.
    install_requires=[f"ebm-ops=={version}", *requirements("runtime")],
    extras_require={
        **{
            name: requirements(name)
            for name in ("openmmlab", "onedl", "data", "onnx", "test", "docs")
        },
        "3d": ["ebm-mmdet[openmmlab]", *requirements("3d")],
    },
    cmdclass={"build_py": BuildPyWithConfigs},
    zip_safe=False,
)
