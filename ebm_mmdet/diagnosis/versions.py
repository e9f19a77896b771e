"""Installed versions, and checks for known incompatible ones.

Remedies name packages of the installed line, so that they do not break it.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Mapping

from ebm_mmdet.diagnosis.findings import Finding
from ebm_mmdet.diagnosis.lines import (
    LINES,
    MODULES,
    ONEDL,
    OPENMMLAB,
    Line,
    distribution_version,
    find_line,
    installed_packages,
    lines_of,
    release,
)

OURS = ("ebm-mmdet", "ebm-ops")
REQUIRED = ("torch", "numpy")
OPENCV = ("opencv-python", "opencv-python-headless")
OPTIONAL = ("triton", "mmdet3d", *OPENCV, "setuptools")
# Packages whose presence is a problem.
UNWANTED = ("mmcv-full", "mmcv-lite", "torchvision")


def installed_versions() -> dict[str, str | None]:
    """Version of every relevant package, without importing any of them."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    versions |= {name: distribution_version(name) for name in (*OURS, *REQUIRED)}
    versions |= installed_packages()
    versions |= {name: distribution_version(name) for name in (*OPTIONAL, *UNWANTED)}
    return versions


def check_versions(versions: Mapping[str, str | None]) -> list[Finding]:
    """Find known incompatible versions and pairs.

    Args:
        versions: package -> version or None, in the format of `installed_versions`; a package that
            is left out counts as not installed.

    Returns:
        One finding per problem, empty if there is none.
    """
    line = find_line(versions)
    findings = _check_what_is_missing(versions)
    findings += _check_lines(versions)
    if line:
        findings += _check_generations(versions, line)
        findings += _check_opencv(versions, line)
    return findings


def _check_what_is_missing(versions: Mapping[str, str | None]) -> list[Finding]:
    line = find_line(versions)
    findings = []
    for name in REQUIRED:
        if not versions.get(name):
            remedy = f"{(line or OPENMMLAB).make}, or pip install {name}"
            findings.append(Finding(f"{name} is not installed", remedy))
    if line is None:
        what = "none of mmengine, mmcv and mmdet is installed"
        choices = (
            f"{each.make} for {each.name}'s packages ({each.distributions['mmcv']} "
            f"{each.pins[each.distributions['mmcv']]}, {note})"
            for each, note in ((OPENMMLAB, "3D too"), (ONEDL, "maintained, 2D"))
        )
        return [*findings, Finding(what, ", or ".join(choices))]
    for module in MODULES:
        if not lines_of(module, versions):
            what = f"{module} is not installed (the other packages are {line.name}'s)"
            findings.append(Finding(what, f"{line.make}, or {line.install(module)}"))
    return findings


def _check_lines(versions: Mapping[str, str | None]) -> list[Finding]:
    """Find packages of both lines in one environment."""
    fresh = "an environment of its own: " + " or ".join(line.make for line in LINES)
    found = {module: lines_of(module, versions) for module in MODULES}
    twice = [module for module, lines in found.items() if len(lines) > 1]
    if twice:
        names = " and ".join(
            f"{name} {versions[name]}"
            for name in (line.distributions[twice[0]] for line in found[twice[0]])
        )
        what = f"{', '.join(twice)} installed twice: {names} overwrite each other's files"
        return [Finding(what, fresh)]
    used = {lines[0].stack for lines in found.values() if lines}
    if len(used) > 1:
        names = ", ".join(
            f"{lines[0].distributions[module]} {versions[lines[0].distributions[module]]}"
            for module, lines in found.items()
            if lines
        )
        return [Finding(f"packages of two lines that are not made for each other: {names}", fresh)]
    if ONEDL.stack in used and versions.get("mmdet3d"):
        what = f"mmdet3d {versions['mmdet3d']} does not work with OneDL's mmcv: 2D only here"
        remedy = f"for 3D {OPENMMLAB.make.replace('install', 'install3d')}, in another environment"
        return [Finding(what, remedy, fatal=False)]
    return []


def _check_generations(versions: Mapping[str, str | None], line: Line) -> list[Finding]:
    """Find single packages that are too old or too new for this line."""
    findings = []

    def add(name: str, is_wrong: Callable[[tuple[int, ...]], bool], why: str, remedy: str) -> None:
        version = versions.get(name)
        if release(version) and is_wrong(release(version)):
            findings.append(Finding(f"{name} {version}{why}", remedy))

    mmcv, mmdet = (line.distributions[module] for module in ("mmcv", "mmdet"))
    mmcv_install = line.install("mmcv")
    for name, why in (
        ("mmcv-lite", " is mmcv without operators (no NMS, no RoIAlign)"),
        ("mmcv-full", " is the mmcv of before 2.0 and shadows it"),
    ):
        add(name, bool, why, f"pip uninstall {name} {mmcv}; {mmcv_install}")
    add(
        "torch",
        lambda found: found < (2, 7),
        ": resuming needs 2.7 (allow-list of weights_only loading)",
        f"pip install torch==2.13.0, then compile {mmcv} again",
    )
    if line is ONEDL:
        add(mmcv, lambda found: found < (2, 3, 6), ": tested from 2.3.6", mmcv_install)
        add(mmdet, lambda found: found < (3, 5), ": tested from 3.5", line.install("mmdet"))
        return findings
    older = ": mmdet 3.3 refuses mmcv >= 2.2.0"
    add(mmcv, lambda found: found >= (2, 2), older, mmcv_install)
    add(mmcv, lambda found: found < (2,), " is the generation before mmengine", mmcv_install)
    older = ": ebm_mmdet is written for 3.3"
    add(mmdet, lambda found: found < (3, 3), older, line.install("mmdet"))
    older = " does not accept mmdet 3.3"
    add("mmdet3d", lambda found: found < (1, 4), older, "pip install mmdet3d==1.4.0")
    newer = ": mmcv 2.1 and nuscenes-devkit are written for numpy 1"
    add("numpy", lambda found: found >= (2,), newer, 'pip install "numpy<2"')
    newer = " drops pkg_resources, which mmengine imports"
    add("setuptools", lambda found: found >= (81,), newer, 'pip install "setuptools<81"')
    return findings


def _check_opencv(versions: Mapping[str, str | None], line: Line) -> list[Finding]:
    findings = []
    found = {name: release(versions.get(name)) for name in OPENCV}
    if all(found.values()) and len(set(found.values())) > 1:
        both = " and ".join(f"{name} {versions[name]}" for name in OPENCV)
        pinned = " ".join(f"{name}=={line.opencv}" for name in OPENCV)
        what = f"{both} overwrite each other's files"
        findings.append(
            Finding(what, f"pip install --force-reinstall --no-deps {pinned}"),
        )
    if (0,) < release(versions.get("numpy")) < (2,):
        for name in OPENCV:
            if found[name] >= (4, 12):
                remedy = (
                    f"pip install {name}=={line.opencv}"
                    if line is OPENMMLAB
                    else 'pip install "numpy>=2"'
                )
                findings.append(Finding(f"{name} {versions[name]} needs numpy 2", remedy))
    return findings


def check_ours(versions: Mapping[str, str | None]) -> list[Finding]:
    """Check that the two distributions of this repository have the same version."""
    ours, ops = (versions.get(name) for name in OURS)
    if importlib.util.find_spec("ebm_ops") is None:  # even if its metadata exist
        what = "ebm-ops, the operators, is not installed"
        return [Finding(what, "in a clone of this repository: pip install ./ops")]
    if ours and ops and ours != ops:
        what = f"ebm-mmdet {ours} with ebm-ops {ops}: the two belong to one version"
        return [Finding(what, "in a clone of this repository: pip install ./ops .")]
    return []
