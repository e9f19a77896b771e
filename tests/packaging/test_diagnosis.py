"""`python -m ebm_mmdet` on working and on broken installations."""

import re
import sys

import pytest

from ebm_mmdet.diagnosis import check_ours, check_versions
from ebm_mmdet.diagnosis.lines import LINES, ONEDL, OPENMMLAB, find_line
from tests.packaging.packaging_support import REPO, run

FROZEN = {
    "torch": "2.13.0+cpu",
    "mmengine": "0.10.7",
    "mmcv": "2.1.0",
    "mmdet": "3.3.0",
    "numpy": "1.26.4",
    "setuptools": "80.10.2",
    "opencv-python": "4.11.0.86",
}
MAINTAINED = {
    "torch": "2.13.0+cpu",
    "onedl-mmengine": "0.10.12",
    "onedl-mmcv": "2.3.6",
    "onedl-mmdetection": "3.5.1",
    "numpy": "2.2.6",
    "setuptools": "84.2.1",
    "opencv-python": "4.12.0.88",
}
NEITHER = {"torch": "2.13.0+cpu", "numpy": "2.2.6"}


def constraints(line):
    name = "constraints.txt" if line is OPENMMLAB else f"constraints-{line.stack}.txt"
    lines = (REPO / "requirements" / name).read_text().splitlines()
    return dict(entry.split("==") for entry in lines if not entry.startswith("#"))


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.stack)
def test_the_pinned_versions_fit(line):
    pinned = constraints(line)
    assert check_versions(pinned) == []
    assert find_line(pinned) is line
    assert line.pins.items() <= pinned.items()
    assert line.opencv == pinned["opencv-python"] == pinned["opencv-python-headless"]


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        ({"mmcv": "2.2.0"}, "refuses mmcv >= 2.2.0", "mmcv==2.1.0"),
        ({"mmcv": "1.7.2"}, "before mmengine", "mmcv==2.1.0"),
        ({"mmcv": None}, "mmcv is not installed", "make install"),
        ({"mmdet": None}, "mmdet is not installed", "pip install mmdet==3.3.0"),
        ({"mmcv-lite": "2.1.0"}, "without operators", "uninstall mmcv-lite"),
        ({"mmcv-full": "1.7.2"}, "before 2.0", "uninstall mmcv-full"),
        ({"numpy": None}, "numpy is not installed", "make install"),
        ({"numpy": "2.1.0", "opencv-python": "4.12.0.88"}, "numpy 2.1.0", "numpy<2"),
        ({"setuptools": "82.0.0"}, "pkg_resources", "setuptools<81"),
        ({"opencv-python": "4.12.0.88"}, "needs numpy 2", "4.11.0.86"),
        ({"opencv-python-headless": "4.10.0.84"}, "overwrite each other", "4.11.0.86"),
        ({"torch": "2.6.0"}, "needs 2.7", "torch==2.13.0"),
        ({"mmdet": "3.0.0"}, "written for 3.3", "mmdet==3.3.0"),
        ({"mmdet3d": "1.3.0"}, "does not accept mmdet 3.3", "mmdet3d==1.4.0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_known_incompatible_versions(change, what, remedy):
    (finding,) = check_versions(FROZEN | change)
    assert what in finding.what
    assert remedy in finding.remedy
    assert finding.fatal


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        ({"onedl-mmcv": None}, "mmcv is not installed", "onedl-mmcv==2.3.6"),
        ({"onedl-mmcv": "2.3.0"}, "tested from 2.3.6", "onedl-mmcv==2.3.6"),
        ({"onedl-mmdetection": None}, "mmdet is not installed", "onedl-mmdetection==3.5.1"),
        ({"onedl-mmdetection": "3.4.0"}, "tested from 3.5", "onedl-mmdetection==3.5.1"),
        ({"onedl-mmengine": None}, "mmengine is not installed", "onedl-mmengine==0.10.12"),
        ({"mmcv-lite": "2.1.0"}, "without operators", "onedl-mmcv==2.3.6"),
        ({"mmcv-full": "1.7.2"}, "before 2.0", "onedl-mmcv==2.3.6"),
        ({"numpy": "1.26.4"}, "needs numpy 2", "numpy>=2"),
        ({"torch": "2.6.0"}, "needs 2.7", "onedl-mmcv"),
        ({"opencv-python-headless": "4.11.0.86"}, "overwrite each other", "4.12.0.88"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_remedies_on_the_maintained_line(change, what, remedy):
    (finding,) = check_versions(MAINTAINED | change)
    assert what in finding.what
    assert remedy in finding.remedy
    assert finding.fatal
    assert not breaks(finding.remedy, ONEDL)


def breaks(remedy, line):
    """Whether a command installs a package of another line over one of this line."""
    others = {name for other in LINES if other is not line for name in other.pins}
    installs = re.findall(r"pip install ([^;,`]*)", remedy)
    words = {re.split(r"[=<>]", word)[0] for command in installs for word in command.split()}
    return bool(words & others) or (line is ONEDL and "`make install`" in remedy)


def test_a_mixture_is_named_and_wants_an_environment_of_its_own():
    (finding,) = check_versions(FROZEN | {"onedl-mmcv": "2.3.6"})
    assert finding.what.startswith("mmcv installed twice: mmcv 2.1.0 and onedl-mmcv 2.3.6")
    assert finding.fatal
    (other,) = check_versions(FROZEN | {"mmcv": None, "onedl-mmcv": "2.3.6"})
    assert "mmcv 2.3.6" in other.what
    assert "mmdet 3.3.0" in other.what
    for each in (finding, other):
        assert "environment of its own" in each.remedy
        assert "pip install" not in each.remedy


def test_mmdet3d_on_the_maintained_line_leaves_2d_alone():
    (finding,) = check_versions(MAINTAINED | {"mmdet3d": "1.4.0"})
    assert "mmdet3d 1.4.0 does not work with OneDL's mmcv" in finding.what
    assert not finding.fatal


def test_without_any_line_both_are_offered():
    (finding,) = check_versions(NEITHER)
    assert "none of mmengine, mmcv and mmdet" in finding.what
    assert "`make install` for OpenMMLab's packages (mmcv 2.1.0, 3D too)" in finding.remedy
    assert "`make install STACK=onedl` for OneDL's packages (onedl-mmcv 2.3.6" in finding.remedy


def test_our_two_distributions_belong_together():
    assert check_ours({"ebm-mmdet": "0.1.0", "ebm-ops": "0.1.0"}) == []
    (finding,) = check_ours({"ebm-mmdet": "0.2.0", "ebm-ops": "0.1.0"})
    assert "pip install ./ops ." in finding.remedy


@pytest.mark.parametrize(
    ("distributions", "said"),
    [
        (FROZEN, ["OpenMMLab's packages (2D and 3D)", "mmcv 2.1.0"]),
        (MAINTAINED, ["OneDL's packages (maintained, 2D)", "onedl-mmcv 2.3.6"]),
        (NEITHER, ["none of mmengine, mmcv and mmdet is installed", "make install STACK=onedl"]),
        (FROZEN | MAINTAINED, ["mmengine, mmcv, mmdet installed twice", "environment of its own"]),
    ],
    ids=["frozen", "maintained", "neither", "both"],
)
def test_lines_are_found_by_the_names_of_their_distributions(distributions, said, tmp_path):
    """The command itself, in a Python that has only the metadata of the packages."""
    for name, version in distributions.items():
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    done = bare_diagnosis(tmp_path)
    assert done.returncode == 1  # nothing can be imported there
    assert "Traceback" not in done.stdout
    words = " ".join(done.stdout.split())
    for part in said:
        assert part in words
    if distributions is MAINTAINED:
        assert not breaks(done.stdout, ONEDL)
        assert "pkg_resources" not in done.stdout


@pytest.mark.parametrize(
    ("mmcv", "mmdet", "line"), [("2.1.0", "3.3.0", OPENMMLAB), ("2.3.6", "3.5.1", ONEDL)]
)
def test_modules_without_a_distribution_are_asked_themselves(mmcv, mmdet, line, tmp_path):
    """Source folders on the path: their line shows in `__version__`."""
    for name, version in (("mmcv", mmcv), ("mmdet", mmdet)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('must not be imported')\n")
        (tmp_path / name / "version.py").write_text(f"__version__ = '{version}'\n")
    done = bare_diagnosis(tmp_path)
    words = " ".join(done.stdout.split())
    assert f"{line.name}'s packages" in words
    assert f"{line.distributions['mmcv']} {mmcv}" in words
    assert f"pip install {line.distributions['mmengine']}==" in words


def bare_diagnosis(folder):
    """`python -m ebm_mmdet` where the standard library, our sources and a folder are all."""
    path = f"{REPO}:{REPO / 'ops'}:{folder}"
    return run(sys.executable, "-S", "-m", "ebm_mmdet", cwd=folder, check=False, PYTHONPATH=path)


def test_a_working_installation(tmp_path):
    done = run(sys.executable, "-m", "ebm_mmdet", cwd=REPO, check=False, COLUMNS="200")
    assert done.returncode == 0, done.stdout
    assert "No problem found" in done.stdout
    for row in ("mmcv._ext", "operators, cpu", "operators, cuda"):
        assert row in done.stdout


@pytest.mark.parametrize("package", ["mmdet", "mmcv", "rich"])
def test_a_broken_package_is_named(tmp_path, package):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    done = run(
        *(sys.executable, "-m", "ebm_mmdet"),
        cwd=REPO,
        check=False,
        PYTHONPATH=str(tmp_path),
        COLUMNS="200",
    )
    assert "Traceback" not in done.stdout
    if package != "rich":  # without rich the table is plain text, mmengine's import fails
        assert f"`import {package}" in done.stdout
    assert "broken on purpose" in done.stdout
    assert done.returncode == 1
