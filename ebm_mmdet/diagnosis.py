"""What is installed, which operators run, and what does not fit: `python -m ebm_mmdet`.

Everything is asked for in a way that survives a broken installation: versions come from the
packages' metadata, and every import is tried and its failure reported.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

REQUIRED = ("torch", "mmengine", "mmcv", "mmdet", "numpy")
OPTIONAL = ("triton", "mmdet3d", "opencv-python", "opencv-python-headless", "setuptools")
# Their presence is a finding in itself.
UNWANTED = ("mmcv-full", "mmcv-lite", "torchvision")

MMCV_INSTALL = "pip install --no-build-isolation mmcv==2.1.0"


@dataclass(frozen=True)
class Finding:
    """Something that does not fit. `fatal` findings make the exit status 1."""

    what: str
    remedy: str
    fatal: bool = True


@dataclass(frozen=True)
class Diagnosis:
    """All that `python -m ebm_mmdet` prints.

    Attributes:
        versions: package -> version, or None where it is not installed.
        facts: (topic, answer) rows: backends, imports.
        findings: what does not fit, with the remedy.
    """

    versions: dict[str, str | None]
    facts: list[tuple[str, str]]
    findings: list[Finding]

    @property
    def exit_status(self) -> int:
        return int(any(finding.fatal for finding in self.findings))


def installed_versions() -> dict[str, str | None]:
    """Version of every package that matters here, without importing any of them."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("ebm-mmdet", *REQUIRED, *OPTIONAL, *UNWANTED):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _release(version: str | None) -> tuple[int, ...]:
    """'2.13.0+cpu' -> (2, 13, 0); None and unreadable -> ()."""
    match = re.match(r"\d+(\.\d+)*", version or "")
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def check_versions(versions: Mapping[str, str | None]) -> list[Finding]:
    """Known incompatible versions and pairs.

    Args:
        versions: package -> version or None, as `installed_versions` gives it; a package that is
            left out counts as not installed.

    Returns:
        One finding per pair, empty if all is well.
    """
    release = {name: _release(version) for name, version in versions.items()}

    def has(name: str) -> bool:
        return bool(release.get(name))

    findings = []

    def add(when: bool, what: str, remedy: str, fatal: bool = True) -> None:
        if when:
            findings.append(Finding(what, remedy, fatal))

    for name in REQUIRED:
        remedy = (
            MMCV_INSTALL
            if name == "mmcv"
            else f"pip install -c requirements/constraints.txt {name}"
        )
        add(not has(name), f"{name} is not installed", f"`make install`, or {remedy}")
    add(
        has("mmcv-lite"),
        f"mmcv-lite {versions.get('mmcv-lite')} is mmcv without operators (no NMS, no RoIAlign)",
        f"pip uninstall mmcv-lite mmcv; {MMCV_INSTALL}",
    )
    add(
        has("mmcv-full"),
        f"mmcv-full {versions.get('mmcv-full')} is the mmcv of before 2.0 and shadows it",
        f"pip uninstall mmcv-full mmcv; {MMCV_INSTALL}",
    )
    add(
        has("mmcv") and release["mmcv"] >= (2, 2),
        f"mmcv {versions.get('mmcv')}: mmdet 3.3 refuses mmcv >= 2.2.0",
        MMCV_INSTALL,
    )
    add(
        has("mmcv") and release["mmcv"] < (2,),
        f"mmcv {versions.get('mmcv')} is the generation before mmengine",
        MMCV_INSTALL,
    )
    add(
        has("mmdet") and release["mmdet"] < (3, 3),
        f"mmdet {versions.get('mmdet')}: ebm_mmdet is written for 3.3",
        "pip install mmdet==3.3.0",
    )
    add(
        has("mmdet3d") and release["mmdet3d"] < (1, 4),
        f"mmdet3d {versions.get('mmdet3d')} does not accept mmdet 3.3",
        "pip install mmdet3d==1.4.0",
    )
    add(
        has("torch") and release["torch"] < (2, 7),
        f"torch {versions.get('torch')}: resuming needs 2.7 (allow-list of weights_only loading)",
        "pip install torch==2.13.0, then compile mmcv again",
    )
    add(
        has("numpy") and release["numpy"] >= (2,),
        f"numpy {versions.get('numpy')}: mmcv 2.1 and nuscenes-devkit are written for numpy 1",
        'pip install "numpy<2"',
    )
    add(
        has("setuptools") and release["setuptools"] >= (81,),
        f"setuptools {versions.get('setuptools')} drops pkg_resources, which mmengine imports",
        'pip install "setuptools<81"',
    )
    both = ("opencv-python", "opencv-python-headless")
    add(
        all(has(name) for name in both) and release[both[0]] != release[both[1]],
        f"opencv-python {versions.get(both[0])} and opencv-python-headless "
        f"{versions.get(both[1])} overwrite each other's files",
        "pip install --force-reinstall --no-deps opencv-python==4.11.0.86 "
        "opencv-python-headless==4.11.0.86",
    )
    for name in both:
        add(
            has(name) and release[name] >= (4, 12) and release.get("numpy", (2,)) < (2,),
            f"{name} {versions.get(name)} wants numpy 2",
            f"pip install {name}==4.11.0.86",
        )
    return findings


def _try_import(name: str) -> tuple[bool, str]:
    """(True, "loads") or (False, the first line of the error)."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken binary raises about anything
        return False, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return True, "loads"


def check_imports(
    versions: Mapping[str, str | None],
) -> tuple[list[tuple[str, str]], list[Finding]]:
    """Import the packages that have compiled parts, or that refuse each other when imported."""
    loads, findings, rows = {}, [], []
    remedies = {
        "pkg_resources": 'pip install "setuptools<81"',
        "torch": "pip install --force-reinstall torch==2.13.0",
        "cv2": "without libGL: pip install --force-reinstall --no-deps "
        "opencv-python-headless==4.11.0.86",
        "mmcv._ext": f"it was compiled for another torch: pip cache remove mmcv; {MMCV_INSTALL} "
        "--force-reinstall --no-deps",
        "mmdet": "see the message; usually the version of mmcv or numpy",
        "ebm_mmdet.models": "see the message",
    }
    if versions.get("torchvision"):
        remedies["torchvision"] = "nothing here needs it: pip uninstall torchvision"
    if versions.get("mmdet3d"):
        remedies["mmdet3d"] = 'pip install -c requirements/constraints.txt "ebm-mmdet[3d]"'
    for name, remedy in remedies.items():
        loads[name], message = _try_import(name)
        rows.append((f"import {name}", message))
        if not loads[name]:
            findings.append(Finding(f"`import {name}` fails: {message}", remedy))
    if loads["torch"] and loads["mmcv._ext"]:
        findings += check_cuda()
    return rows, findings


def check_cuda() -> list[Finding]:
    """A torch that sees a GPU beside an mmcv that was compiled without CUDA, or for another one."""
    import torch
    from mmcv.ops import get_compiling_cuda_version

    built_for = get_compiling_cuda_version()
    if torch.version.cuda is None or not torch.cuda.is_available():
        return []
    remedy = f"FORCE_CUDA=1 {MMCV_INSTALL} --force-reinstall --no-deps --no-cache-dir (needs nvcc)"
    if built_for == "not available":
        what = "torch sees a GPU, but mmcv was compiled without CUDA: NMS on the GPU will fail"
        return [Finding(what, remedy)]
    if _release(built_for)[:1] != _release(torch.version.cuda)[:1]:
        what = f"mmcv was compiled with CUDA {built_for}, torch with CUDA {torch.version.cuda}"
        return [Finding(what, remedy)]
    return []


def operator_rows() -> tuple[list[tuple[str, str]], list[Finding]]:
    """Which implementation of the pooling runs on which device, and why."""
    try:
        ops = importlib.import_module("ebm_ops")
        info = ops.backend_info()
    except Exception as error:
        what = f"ebm_ops does not work: {type(error).__name__}: {error}"
        return [], [Finding(what, "`make install`; EBM_OPS_BUILD=0 leaves the C++ part out")]
    rows = [
        (f"operators, {device}", f"{found.name}: {found.why}") for device, found in info.items()
    ]
    if info["cpu"].name == "reference":
        what = f"pooling on the CPU runs in plain PyTorch, many times slower: {info['cpu'].why}"
        return rows, [Finding(what, "install g++, then `make install`", fatal=False)]
    return rows, []


def accelerator_row() -> tuple[str, str]:
    """What torch computes on."""
    try:
        import torch
    except Exception as error:
        return ("device", f"torch does not load: {error}")
    if torch.cuda.is_available():
        return ("device", f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})")
    return ("device", f"CPU, {torch.get_num_threads()} threads")


def diagnose() -> Diagnosis:
    """Look at everything."""
    versions = installed_versions()
    findings = check_versions(versions)
    facts = [accelerator_row()]
    checks: tuple[Callable[[], tuple[list[tuple[str, str]], list[Finding]]], ...] = (
        operator_rows,
        lambda: check_imports(versions),
    )
    for check in checks:
        rows, found = check()
        facts += rows
        findings += found
    return Diagnosis(versions, facts, findings)


def report(diagnosis: Diagnosis) -> None:
    """Print a diagnosis: as tables, or as plain lines where `rich` is missing."""
    versions = diagnosis.versions.items()
    rows = [(name, found or "-") for name, found in versions if found or name not in UNWANTED]
    rows += diagnosis.facts
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        for left, right in rows:
            print(f"{left:28} {right}")
        for finding in diagnosis.findings:
            print(f"! {finding.what}\n  remedy: {finding.remedy}")
    else:
        console = Console()
        table = Table("what", "found", title="ebm-mmdet")
        for left, right in rows:
            table.add_row(Text(left), Text(right))
        console.print(table)
        for finding in diagnosis.findings:
            style = "bold red" if finding.fatal else "yellow"
            console.print(Text(finding.what, style), Text(f"remedy: {finding.remedy}"), sep="\n")
    if not diagnosis.findings:
        print("No problem found.")


def main() -> int:
    """Entry point of `python -m ebm_mmdet`: 0 if all is well, 1 otherwise."""
    import warnings

    # mmengine's import of pkg_resources warns; the check of setuptools says what matters about it.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    diagnosis = diagnose()
    report(diagnosis)
    return diagnosis.exit_status
