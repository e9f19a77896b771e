"""`python -m ebm_mmdet` on working and on broken installations."""

import sys

import pytest

from ebm_mmdet.diagnosis import check_versions
from tests.packaging.packaging_support import REPO, run

GOOD = {
    "torch": "2.13.0+cpu",
    "mmengine": "0.10.7",
    "mmcv": "2.1.0",
    "mmdet": "3.3.0",
    "numpy": "1.26.4",
    "setuptools": "80.10.2",
    "opencv-python": "4.11.0.86",
}


def test_the_pinned_versions_fit():
    assert check_versions(GOOD) == []


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        ({"mmcv": "2.2.0"}, "refuses mmcv >= 2.2.0", "mmcv==2.1.0"),
        ({"mmcv": "1.7.2"}, "before mmengine", "mmcv==2.1.0"),
        ({"mmcv": None}, "mmcv is not installed", "make install"),
        ({"mmdet": None}, "mmdet is not installed", "-c requirements/constraints.txt mmdet"),
        ({"mmcv-lite": "2.1.0"}, "without operators", "uninstall mmcv-lite"),
        ({"mmcv-full": "1.7.2"}, "before 2.0", "uninstall mmcv-full"),
        ({"numpy": "2.1.0", "opencv-python": "4.12.0.88"}, "numpy 2.1.0", "numpy<2"),
        ({"setuptools": "82.0.0"}, "pkg_resources", "setuptools<81"),
        ({"opencv-python": "4.12.0.88"}, "wants numpy 2", "4.11.0.86"),
        ({"opencv-python-headless": "4.10.0.84"}, "overwrite each other", "4.11.0.86"),
        ({"torch": "2.6.0"}, "needs 2.7", "torch==2.13.0"),
        ({"mmdet": "3.0.0"}, "written for 3.3", "mmdet==3.3.0"),
        ({"mmdet3d": "1.3.0"}, "does not accept mmdet 3.3", "mmdet3d==1.4.0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_known_incompatible_versions(change, what, remedy):
    (finding,) = check_versions(GOOD | change)
    assert what in finding.what
    assert remedy in finding.remedy
    assert finding.fatal


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
