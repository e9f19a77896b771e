"""Checks by import: broken packages, operators and devices."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from ebm_mmdet.diagnosis.findings import Finding
from ebm_mmdet.diagnosis.lines import OPENMMLAB, Line, find_line, release


def _try_import(name: str) -> tuple[bool, str]:
    """(True, "loads") or (False, the first line of the error)."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken binary may raise any error
        return False, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return True, "loads"


def check_imports(
    versions: Mapping[str, str | None],
) -> tuple[list[tuple[str, str]], list[Finding]]:
    """Import the packages that have compiled parts, or that check each other's versions."""
    loads, findings, rows = {}, [], []
    found = find_line(versions)
    line = found or OPENMMLAB
    mmcv = line.install("mmcv")
    wheel = line.distributions["mmcv"].replace("-", "_")
    remedies = {
        "torch": "pip install --force-reinstall torch==2.13.0",
        "cv2": "without libGL: pip install --force-reinstall --no-deps "
        f"opencv-python-headless=={line.opencv}",
        "mmcv._ext": f"it was compiled for another torch: pip cache remove {wheel}; {mmcv} "
        "--force-reinstall --no-deps",
        "mmdet": "see the message; usually the version of mmcv or numpy",
        "ebm_mmdet.models": "see the message",
    }
    if found is OPENMMLAB:
        remedies["pkg_resources"] = 'pip install "setuptools<81"'
    if versions.get("torchvision"):
        remedies["torchvision"] = "nothing here needs it: pip uninstall torchvision"
    if versions.get("mmdet3d") and line is OPENMMLAB:
        remedies["mmdet3d"] = "in a clone: `make install3d`"
        remedies["ebm_mmdet3d"] = "see the message"
    for name, remedy in remedies.items():
        loads[name], message = _try_import(name)
        rows.append((f"import {name}", message))
        if not loads[name]:
            findings.append(Finding(f"`import {name}` fails: {message}", remedy))
    if loads["torch"] and loads["mmcv._ext"]:
        findings += check_cuda(line)
    return rows, findings


def check_cuda(line: Line) -> list[Finding]:
    """Check that mmcv was compiled with torch's CUDA version if torch sees a GPU."""
    import torch
    from mmcv.ops import get_compiling_cuda_version

    built_for = get_compiling_cuda_version()
    if torch.version.cuda is None or not torch.cuda.is_available():
        return []
    remedy = (
        f"FORCE_CUDA=1 {line.install('mmcv')} --force-reinstall --no-deps --no-cache-dir "
        "(needs nvcc)"
    )
    if built_for == "not available":
        what = "torch sees a GPU, but mmcv was compiled without CUDA: NMS on the GPU will fail"
        return [Finding(what, remedy)]
    if release(built_for)[:1] != release(torch.version.cuda)[:1]:
        what = f"mmcv was compiled with CUDA {built_for}, torch with CUDA {torch.version.cuda}"
        return [Finding(what, remedy)]
    return []


def operator_rows() -> tuple[list[tuple[str, str]], list[Finding]]:
    """Which backend of the pooling operators is used on which device, and why."""
    try:
        ops = importlib.import_module("ebm_ops")
        info = ops.backend_info()
    except Exception as error:
        what = f"ebm_ops does not work: {type(error).__name__}: {error}"
        remedy = "in a clone: pip install ./ops; EBM_OPS_BUILD=0 leaves the C++ part out"
        return [], [Finding(what, remedy)]
    rows = [
        (f"operators, {device}", f"{found.name}: {found.why}") for device, found in info.items()
    ]
    if info["cpu"].name == "reference":
        what = f"pooling on the CPU runs in plain PyTorch, many times slower: {info['cpu'].why}"
        return rows, [Finding(what, "install g++, then in a clone: pip install ./ops", fatal=False)]
    return rows, []


def accelerator_row() -> tuple[str, str]:
    """The device on which torch computes."""
    try:
        import torch
    except Exception as error:
        return ("device", f"torch does not load: {error}")
    if torch.cuda.is_available():
        return ("device", f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})")
    return ("device", f"CPU, {torch.get_num_threads()} threads")
