"""Point clouds: generated scenes in KITTI's conventions, and transforms that KITTI training needs.

Generation needs only numpy, scipy and OpenCV.
"""

import typing as _typing  # mypy knows TYPE_CHECKING by this name only

from ..requirements import explain_missing_names as _explain_missing_names
from ..requirements import missing_packages as _missing_packages
from .lidar_scenes import Lidar, LidarScene, SceneOptions, render_scene

__all__ = [
    "Lidar",
    "LidarScene",
    "SceneOptions",
    "render_scene",
]

if _typing.TYPE_CHECKING or not _missing_packages():
    from .lidar_scenes_dataset import LidarScenesDataset
    from .transforms import MergeClasses3D, ObjectCornerRangeFilter

    __all__ += ["LidarScenesDataset", "MergeClasses3D", "ObjectCornerRangeFilter"]
else:
    __getattr__ = _explain_missing_names(
        __name__, ["LidarScenesDataset", "MergeClasses3D", "ObjectCornerRangeFilter"]
    )
