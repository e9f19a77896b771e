"""Diagnosis of an installation, `python -m ebm_mmdet`: versions, operators and conflicts.

It works even in a broken installation: versions are read from the packages' metadata, and an
import that fails is reported.
"""

from ebm_mmdet.diagnosis.findings import Finding
from ebm_mmdet.diagnosis.report import Diagnosis, diagnose, main, report
from ebm_mmdet.diagnosis.versions import check_ours, check_versions, installed_versions

__all__ = [
    "Diagnosis",
    "Finding",
    "check_ours",
    "check_versions",
    "diagnose",
    "installed_versions",
    "main",
    "report",
]
