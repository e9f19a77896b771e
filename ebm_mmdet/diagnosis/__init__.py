"""What is installed, which operators run, and what does not fit: `python -m ebm_mmdet`.

Everything is asked for in a way that survives a broken installation: versions come from the
packages' metadata, and every import is tried and its failure reported.
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
