"""Functions for scripts: an energy head for a detector of mmdet3d, and calibrated intervals."""

from .energy_config import add_energy_head_3d, write_energy_config_3d
from .fitting import fit_3d
from .interval_calibration import calibrate_3d, fit_dim_intervals
from .matched_dims import MatchedDims, matched_dims

__all__ = [
    "MatchedDims",
    "add_energy_head_3d",
    "calibrate_3d",
    "fit_3d",
    "fit_dim_intervals",
    "matched_dims",
    "write_energy_config_3d",
]
