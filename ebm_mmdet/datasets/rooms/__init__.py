"""Generated indoor scenes with depth, surface normals, instance masks and scene types.

Generation needs only numpy, scipy and OpenCV.
"""

import typing as _typing  # mypy knows TYPE_CHECKING by this name only

from ...requirements import explain_missing_names as _explain_missing_names
from ...requirements import missing_packages as _missing_packages
from .scenes import CLASSES, SCENE_TYPES, RoomOptions, RoomScene, render_room

__all__ = [
    "CLASSES",
    "SCENE_TYPES",
    "RoomOptions",
    "RoomScene",
    "RoomScenesDataset",
    "render_room",
    "write_rooms",
]

if _typing.TYPE_CHECKING or not _missing_packages():
    from .rooms_dataset import RoomScenesDataset
    from .writing import write_rooms
else:
    __getattr__ = _explain_missing_names(__name__, __all__)
