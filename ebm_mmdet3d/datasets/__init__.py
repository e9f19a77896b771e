"""Point clouds: generated scenes in KITTI's conventions, and KITTI itself.

Generation needs numpy, scipy and OpenCV only; what mmdet3d registers is imported where it is there.
"""

from importlib.util import find_spec as _find_spec

from .kitti_preparation import KittiError, prepare_kitti
from .kitti_writer import write_kitti
from .lidar_scenes import Lidar, LidarScene, SceneOptions, render_scene

__all__ = [
    "KittiError",
    "Lidar",
    "LidarScene",
    "SceneOptions",
    "prepare_kitti",
    "render_scene",
    "write_kitti",
]

if _find_spec("mmdet3d"):
    from .lidar_scenes_dataset import LidarScenesDataset
    from .transforms import MergeClasses3D, ObjectCornerRangeFilter

    __all__ += ["LidarScenesDataset", "MergeClasses3D", "ObjectCornerRangeFilter"]
