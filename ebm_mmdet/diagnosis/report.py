"""Runs all checks and prints their results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ebm_mmdet.diagnosis.findings import Finding
from ebm_mmdet.diagnosis.imports import accelerator_row, check_imports, operator_rows
from ebm_mmdet.diagnosis.lines import DISTRIBUTIONS, ONEDL, OPENMMLAB, find_line
from ebm_mmdet.diagnosis.versions import UNWANTED, check_ours, check_versions, installed_versions


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `python -m ebm_mmdet` prints.

    Attributes:
        versions: package -> version, or None if it is not installed.
        facts: (topic, answer) rows: line, backends, imports.
        findings: problems and their remedies.
    """

    versions: dict[str, str | None]
    facts: list[tuple[str, str]]
    findings: list[Finding]

    @property
    def exit_status(self) -> int:
        return int(any(finding.fatal for finding in self.findings))


def line_row(versions: Mapping[str, str | None]) -> tuple[str, str]:
    """The row that names the installed line of OpenMMLab packages."""
    line = find_line(versions)
    if line is None:
        return ("line", "none: mmengine, mmcv and mmdet are not installed")
    notes = {OPENMMLAB.stack: "2D and 3D", ONEDL.stack: "maintained, 2D"}
    return ("line", f"{line.name}'s packages ({notes[line.stack]})")


def diagnose() -> Diagnosis:
    """Run all checks."""
    versions = installed_versions()
    findings = check_versions(versions) + check_ours(versions)
    facts = [line_row(versions), accelerator_row()]
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
    """Print a diagnosis as tables, or as plain lines if `rich` is not installed."""
    versions = diagnosis.versions.items()
    rows = [
        (name, found or "-")
        for name, found in versions
        if found or name not in (*UNWANTED, *DISTRIBUTIONS)
    ]
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
    """Entry point of `python -m ebm_mmdet`: returns 0 without a fatal finding, else 1."""
    # mmengine's import of pkg_resources warns; the check of setuptools reports what matters.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    diagnosis = diagnose()
    report(diagnosis)
    return diagnosis.exit_status
