"""Wheel and editable install: configs where mmengine finds them, and an optional extension."""

import shutil
import sys
import zipfile
from email.parser import Parser

import pytest

from tests.packaging.packaging_support import REPO, copy_sources, new_environment, pip_install, run

USER_CONFIG = """
_base_ = 'ebm_mmdet::ebm/faster_rcnn_r50_fpn_nceplus.py'
model = dict(energy_head=dict(fc_channels=[8]), refiner=_base_.model.refiner)
"""
# Prints the folder the base came from; builds a part of every model, so that every scope is used.
READ_USER_CONFIG = """
import sys, ebm_mmdet
from pathlib import Path
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
init_default_scope('mmdet')
config = Config.fromfile(sys.argv[1])
assert config.model.energy_head.fc_channels == [8]
head = MODELS.build(config.model.energy_head)
assert type(head).__name__ == 'EBMBBoxHead', head
base = Path(get_config('ebm_mmdet::ebm/faster_rcnn_r50_fpn_nceplus.py').filename)
for path in sorted(base.parent.glob('*.py')):
    model = get_config(f'ebm_mmdet::ebm/{path.name}').model
    assert model.type == 'EBMDetector', model.type
    model.energy_head.fc_channels = [8]
    MODELS.build(model.energy_head)
    print('CONFIG', path.name)
print('PACKAGE', ebm_mmdet.__path__[0])
print('BASE', base)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return copy_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = ("pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder)
    run(sys.executable, "-m", *command, sources, cwd=folder, EBM_OPS_BUILD="0")
    (path,) = folder.glob("ebm_mmdet-*.whl")
    return path


def read_user_config(python, folder):
    """Where the package and the base of a user's config are found: two paths.

    Every config of `configs/ebm` is read, and its head built.
    """
    (folder / "user.py").write_text(USER_CONFIG)
    out = run(python, "-c", READ_USER_CONFIG, folder / "user.py", cwd=folder).stdout
    answers = dict(line.split(" ", 1) for line in out.splitlines() if line[:4] in ("PACK", "BASE"))
    read = {line.split()[1] for line in out.splitlines() if line.startswith("CONFIG ")}
    assert read == {path.name for path in (REPO / "configs" / "ebm").glob("*.py")}
    return answers["PACKAGE"], answers["BASE"]


def test_wheel_holds_configs_tools_and_sources(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "tools"):
        for path in (REPO / folder).rglob("*"):
            inside = f"ebm_mmdet/.mim/{path.relative_to(REPO).as_posix()}"
            if path.is_file() and "__pycache__" not in path.parts:
                assert inside in names
    assert "ebm_mmdet/.mim/model-index.yml" in names
    for path in (REPO / "ebm_ops").rglob("*.*"):
        if path.suffix in (".py", ".cpp", ".h"):
            assert path.relative_to(REPO).as_posix() in names
    assert not [name for name in names if name.split("/")[0] in ("tests", "benchmarks", "tools")]


def test_wheel_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Name"] == "ebm-mmdet"
    assert set(metadata.get_all("Provides-Extra")) == {"3d", "test", "docs"}
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    text = "\n".join(needed)
    assert "mmdet<4" in text
    for unwanted in ("mmdet3d", "spconv", "nuscenes", "numba", "torchvision", "pytest"):
        assert unwanted not in text


def test_wheel_install_serves_configs(wheel, tmp_path):
    python = new_environment(tmp_path / "env")
    pip_install(python, wheel, cwd=tmp_path)
    package, base = read_user_config(python, tmp_path)
    assert package.startswith(str(tmp_path / "env"))
    assert base.startswith(package)


def test_editable_install_serves_configs(tmp_path):
    sources = copy_sources(tmp_path / "sources")
    python = new_environment(tmp_path / "env")
    pip_install(python, "--editable", sources, cwd=tmp_path, EBM_OPS_BUILD="0")
    package, base = read_user_config(python, tmp_path)
    assert package == str(sources / "ebm_mmdet")
    assert base.startswith(package)
    # A config that is written later is there too.
    (sources / "configs" / "mine").mkdir()
    (sources / "configs" / "mine" / "new.py").write_text("answer = 42\n")
    script = (
        "import ebm_mmdet, mmengine.hub as h; print(h.get_config('ebm_mmdet::mine/new.py').answer)"
    )
    assert run(python, "-c", script, cwd=tmp_path).stdout.splitlines()[-1] == "42"


@pytest.mark.parametrize(
    "variables",
    [{"EBM_OPS_BUILD": "0"}, {"CXX": "/bin/false", "CC": "/bin/false"}],
    ids=["switched off", "broken compiler"],
)
def test_install_goes_on_without_the_extension(sources, variables, tmp_path):
    here = tmp_path / "sources"
    shutil.copytree(sources, here)
    done = run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=here, **variables)
    said = [line for line in done.stdout.splitlines() if line.startswith("ebm_ops: no C++")]
    assert len(said) == 1, done.stdout
    assert not list(here.rglob("*.so"))


def test_install_goes_on_when_the_sources_do_not_compile(sources, tmp_path):
    here = tmp_path / "sources"
    shutil.copytree(sources, here)
    (here / "ebm_ops" / "module.cpp").write_text("this is not C++\n")
    (here / "ebm_ops" / "prroi_pool" / "cpu.cpp").write_text("neither is this\n")
    python = new_environment(tmp_path / "env")
    pip_install(python, "--editable", here, cwd=tmp_path)
    script = "import ebm_ops; print(ebm_ops.__file__, ebm_ops.backend_info()['cpu'].name)"
    where, backend = run(python, "-c", script, cwd=tmp_path).stdout.split()
    assert where.startswith(str(here))
    assert backend == "reference"
