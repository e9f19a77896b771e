"""Functions for scripts: add and fit an energy head to a detector of mmdet3d."""

from .energy_config import add_energy_head_3d, write_energy_config_3d
from .fitting import fit_3d

__all__ = ["add_energy_head_3d", "fit_3d", "write_energy_config_3d"]
