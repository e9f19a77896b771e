"""Wheels and editable installs of both distributions, in environments with little else."""

import re
import shutil
import sys
import zipfile
from email.parser import Parser
from types import SimpleNamespace

import pytest

from tests.packaging.packaging_support import (
    REPO,
    copy_sources,
    environment_with,
    new_environment,
    pip_install,
    run,
    site_packages,
)

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
# The operators at work, and which of the other packages are in reach.
USE_OPERATORS = """
import torch, ebm_ops
from importlib.util import find_spec
features, rois = torch.ones(1, 1, 8, 8), torch.tensor([[0.0, 1, 1, 5, 5]], requires_grad=True)
assert torch.allclose(ebm_ops.prroi_pool(features, rois, 2, 1.0), torch.ones(1, 1, 2, 2))
print(ebm_ops.__file__, ebm_ops.backend_info()['cpu'].name)
print([name for name in ('numpy', 'mmengine', 'mmcv', 'mmdet', 'ebm_mmdet') if find_spec(name)])
"""
STUDY_CONFIGS = ("nuclei", "bbbc039", "coco_open")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return copy_sources(tmp_path_factory.mktemp("sources"))


def build_wheel(python, source, folder, **variables):
    """Build a wheel with the packages of `python` and without the index."""
    command = ("pip", "--python", python, "wheel", "-w", folder)
    options = ("--no-build-isolation", "--no-deps", "--no-index")
    run(sys.executable, "-m", *command, *options, source, cwd=folder, **variables)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheels(sources, tmp_path_factory):
    """Our wheel, built where there is neither torch nor a compiler, and that of the operators."""
    ours, ops = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("ops")
    bare = environment_with(tmp_path_factory.mktemp("bare") / "env", "setuptools")
    assert run(bare, "-c", "import torch", cwd=ours, check=False).returncode == 1
    return SimpleNamespace(
        ours=build_wheel(bare, sources, ours, PATH="", CXX="/bin/false"),
        ops=build_wheel(sys.executable, sources / "ops", ops, EBM_OPS_BUILD="0"),
    )


def names_in(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


def metadata_of(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
    return Parser().parsestr(archive.read(name).decode())


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


def test_our_wheel_is_pure_python(wheels):
    assert wheels.ours.name.endswith("-py3-none-any.whl")
    assert {name.split("/")[0] for name in names_in(wheels.ours)} == {
        "ebm_mmdet",
        "ebm_mmdet3d",
        next(name.split("/")[0] for name in names_in(wheels.ours) if ".dist-info/" in name),
    }
    binary = (".so", ".cpp", ".h", ".pyd", ".cu")
    assert not [name for name in names_in(wheels.ours) if name.endswith(binary)]


def test_wheel_holds_configs_and_commands_for_users(wheels):
    inside = names_in(wheels.ours)
    for path in (REPO / "configs").rglob("*"):
        name = path.relative_to(REPO).as_posix()
        if path.is_file() and "__pycache__" not in path.parts:
            is_study = name.split("/")[1] in STUDY_CONFIGS
            assert (f"ebm_mmdet/.mim/{name}" in inside) == (not is_study), name
    assert {"ebm_mmdet/.mim/tools/train.py", "ebm_mmdet/.mim/tools/test.py"} <= inside
    assert "ebm_mmdet/.mim/model-index.yml" in inside


def test_no_command_of_the_wheel_needs_what_stays_in_the_repository(wheels):
    archive = zipfile.ZipFile(wheels.ours)
    for name in archive.namelist():
        assert not name.startswith("ebm_mmdet/.mim/tools/lab")
        if name.endswith(".py"):
            text = archive.read(name).decode()
            assert not re.search(r"^\s*(from|import) (lab|tests)\b", text, re.MULTILINE), name


def test_wheel_of_the_operators_holds_their_sources(wheels):
    names = names_in(wheels.ops)
    for path in (REPO / "ops" / "ebm_ops").rglob("*.*"):
        if path.suffix in (".py", ".cpp", ".h", ".typed"):
            assert path.relative_to(REPO / "ops").as_posix() in names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"ebm_ops"}


def test_metadata_forces_neither_line_of_the_openmmlab_packages(wheels):
    metadata = metadata_of(wheels.ours)
    assert metadata["Name"] == "ebm-mmdet"
    extras = {"openmmlab", "onedl", "3d", "data", "onnx", "test", "docs"}
    assert set(metadata.get_all("Provides-Extra")) == extras
    lines = metadata.get_all("Requires-Dist")
    needed = "\n".join(line for line in lines if "extra ==" not in line)
    for unwanted in ("mm", "spconv", "nuscenes", "numba", "torchvision", "pytest", "<2"):
        assert unwanted not in needed.replace("ebm-", "").replace("_mm", "")
    for line in lines:
        if re.match(r"mm(cv|det|engine)\b", line):
            assert line.endswith('extra == "openmmlab"')
        if line.startswith("onedl-"):
            assert line.endswith('extra == "onedl"')
    assert any(re.match(r'ebm-mmdet\[openmmlab\];.*"3d"', line) for line in lines)


def test_both_distributions_have_one_version(wheels):
    ours, ops = metadata_of(wheels.ours), metadata_of(wheels.ops)
    assert ops["Name"] == "ebm-ops"
    assert ours["Version"] == ops["Version"]
    assert f"ebm-ops=={ours['Version']}" in ours.get_all("Requires-Dist")
    (needed,) = (line for line in ops.get_all("Requires-Dist") if "extra ==" not in line)
    assert needed.startswith("torch")
    assert ours["Requires-Python"] == ops["Requires-Python"] == ">=3.10"


def test_operators_alone_in_an_environment_with_nothing_but_torch(sources, tmp_path):
    python = environment_with(tmp_path / "env", "torch", "setuptools")
    pip_install(python, sources / "ops", cwd=tmp_path, EBM_OPS_BUILD="0")
    where, others = run(python, "-c", USE_OPERATORS, cwd=tmp_path).stdout.splitlines()[-2:]
    assert where.startswith(str(site_packages(tmp_path / "env")))
    assert others == "[]"


def test_wheels_serve_configs(wheels, tmp_path):
    python = new_environment(tmp_path / "env")
    pip_install(python, wheels.ops, wheels.ours, cwd=tmp_path)
    package, base = read_user_config(python, tmp_path)
    assert package.startswith(str(tmp_path / "env"))
    assert base.startswith(package)


def test_editable_installs_are_two_plain_paths_and_serve_configs(tmp_path):
    sources = copy_sources(tmp_path / "sources")
    python = new_environment(tmp_path / "env")
    editable = ("--editable", sources / "ops", "--editable", sources)
    pip_install(python, *editable, cwd=tmp_path, EBM_OPS_BUILD="0")
    lines = [path.read_text() for path in site_packages(tmp_path / "env").glob("__editable__*.pth")]
    assert sorted(line.rstrip("/.\n") for line in lines) == sorted(
        [str(sources), str(sources / "ops")]
    )
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


def test_missing_operators_are_named_with_the_remedy(wheels, tmp_path):
    """The operators are on no index: whoever installs our wheel alone has to learn that."""
    python = new_environment(tmp_path / "env")
    pip_install(python, wheels.ours, cwd=tmp_path)
    said = run(
        python, "-c", "import ebm_mmdet", cwd=tmp_path, check=False, PYTHONWARNINGS="always"
    ).stdout
    assert "ebm_ops" in said
    assert "`python -m ebm_mmdet` names the remedy" in said
    done = run(python, "-m", "ebm_mmdet", cwd=tmp_path, check=False, COLUMNS="200")
    assert done.returncode == 1
    assert "ebm-ops, the operators, is not installed" in done.stdout
    assert "in a clone of this repository: pip install ./ops" in done.stdout


@pytest.mark.parametrize(
    "variables",
    [{"EBM_OPS_BUILD": "0"}, {"CXX": "/bin/false", "CC": "/bin/false"}],
    ids=["switched off", "broken compiler"],
)
def test_install_goes_on_without_the_extension(sources, variables, tmp_path):
    here = tmp_path / "ops"
    shutil.copytree(sources / "ops", here)
    done = run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=here, **variables)
    said = [line for line in done.stdout.splitlines() if line.startswith("ebm_ops: no C++")]
    assert len(said) == 1, done.stdout
    assert not list(here.rglob("*.so"))


def test_install_goes_on_when_the_sources_do_not_compile(sources, tmp_path):
    here = tmp_path / "ops"
    shutil.copytree(sources / "ops", here)
    for path in (here / "ebm_ops").rglob("*.cpp"):
        path.write_text("this is not C++\n")
    python = new_environment(tmp_path / "env")
    pip_install(python, "--editable", here, cwd=tmp_path)
    out = run(python, "-c", USE_OPERATORS, cwd=tmp_path).stdout
    where, backend = out.splitlines()[-2].split()
    assert where.startswith(str(here))
    assert backend == "reference"
