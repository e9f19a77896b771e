"""KITTI preparation for any folder in KITTI's layout, on a machine without a GPU.

Labels, calibrations and the format of the info files are read and written by mmdet3d's own
converters, which its wheel contains as scripts. This module adds what they lack: any choice of
splits (they require all four), a read-only source, frames without any object, files that are
written completely or not at all, and no overwriting.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from ebm_mmdet.files import write_bytes
from ebm_mmdet3d.datasets.kitti_geometry import Camera, in_image, points_in_boxes

from .progress_bars import no_progress_bars

__all__ = ["DATABASE", "KittiError", "info_file", "prepare_kitti"]

DATABASE = "kitti_dbinfos_train.pkl"
_OBJECTS = "kitti_gt_database"  # DATABASE lists its files
LAYOUT = (
    "expected layout: ROOT/ImageSets/<split>.txt with one frame per line, and for each frame "
    "ROOT/training/velodyne/*.bin, calib/*.txt, image_2/*.png and label_2/*.txt (the split "
    "'test': ROOT/testing/..., without labels)"
)
_NOT_LABELLED = ("test",)


class KittiError(ValueError):
    """A folder is not as expected; the message says what is missing and where."""


def info_file(split: str) -> str:
    """The name of the info file of a split in mmdet3d's configs."""
    return f"kitti_infos_{split}.pkl"


def prepare_kitti(
    root: str | os.PathLike,
    out: str | os.PathLike | None = None,
    splits: Sequence[str] | None = None,
    database: bool = False,
) -> list[Path]:
    """Make the files that mmdet3d's KITTI configs read.

    - ``velodyne_reduced``: the points inside the image, byte for byte as in the scan;
    - ``kitti_infos_<split>.pkl``, format 1.1 of mmdet3d ("version 2" of its docs), with the number
      of reduced points in every box;
    - with ``database``: ``kitti_gt_database`` and ``kitti_dbinfos_train.pkl`` of the split
      ``train``, for ``ObjectSample``.

    Args:
        root: Folder in KITTI's layout; it is only read if ``out`` is another one.
        out: Output folder, ``root`` by default, for use as ``data_root`` in configs.
        splits: Names of files in ``ImageSets``; by default all of them.
        database: Also cut out the objects of ``train``.

    Returns:
        The files that configs name, in order.

    Raises:
        KittiError: The folder is not as expected. Nothing is written.
        FileExistsError: An info file that would be written exists. Nothing is written. (Reduced
            scans may exist; they are computed from the scans again.)
    """
    root = Path(root)
    out = root if out is None else Path(out)
    frames = _frames(root, splits)
    if database and "train" not in frames:
        raise KittiError(f"a database is made of the split 'train'; there is only {list(frames)}")
    wanted = [info_file(split) for split in frames] + [DATABASE] * database
    for name in wanted:
        if (out / name).exists():
            raise FileExistsError(
                f"{out / name} exists and is not overwritten; remove it or choose another output "
                "folder"
            )
    out.mkdir(parents=True, exist_ok=True)
    # Made in a temporary folder and moved at the end: an interruption leaves no partial set.
    with _converters() as converter, tempfile.TemporaryDirectory(dir=out, prefix=".kitti.") as made:
        read: dict[tuple[bool, int], dict] = {}
        for split, numbers in frames.items():
            labelled = split not in _NOT_LABELLED
            new = [number for number in numbers if (labelled, number) not in read]
            for number, info in zip(new, _read(converter, root, new, labelled)):
                _reduce(root, out, info)
                read[labelled, number] = info
            infos = [read[labelled, number] for number in numbers]
            _convert(converter, infos, Path(made, info_file(split)))
        if database:
            _make_database(converter, out, Path(made))
            shutil.rmtree(out / _OBJECTS, ignore_errors=True)  # a leftover: no file lists it
            wanted.insert(0, _OBJECTS)
        for name in wanted:
            os.replace(Path(made, name), out / name)
    return [out / name for name in wanted if name != _OBJECTS]


def _frames(root: Path, splits: Sequence[str] | None) -> dict[str, list[int]]:
    """Numbers of the frames of each split, after a check that all their files exist."""
    sets = root / "ImageSets"
    if splits is None:
        splits = sorted(path.stem for path in sets.glob("*.txt"))
        if not splits:
            raise KittiError(f"no split in {sets}; {LAYOUT}")
    frames = {}
    for split in splits:
        file = sets / f"{split}.txt"
        if not file.is_file():
            raise KittiError(f"{file} is missing; {LAYOUT}")
        names = file.read_text().split()
        if not names or not all(name.isdigit() for name in names):
            raise KittiError(f"{file} must hold one frame number per line; {LAYOUT}")
        frames[split] = [int(name) for name in names]
        labelled = split not in _NOT_LABELLED
        folder = root / ("training" if labelled else "testing")
        kinds = {"velodyne": "bin", "calib": "txt", "image_2": "png"}
        if labelled:
            kinds["label_2"] = "txt"
        for kind, ending in kinds.items():
            paths = [folder / kind / f"{number:06d}.{ending}" for number in frames[split]]
            missing = [path for path in paths if not path.is_file()]
            if missing:
                raise KittiError(
                    f"{len(missing)} of the {len(paths)} files that {file} requires in "
                    f"{folder / kind} are missing, the first is {missing[0].name}; {LAYOUT}"
                )
    return frames


@contextlib.contextmanager
def _converters() -> Iterator[Callable[[str], ModuleType]]:
    """Import parts of mmdet3d's ``tools/dataset_converters`` by name; they print nothing."""
    import mmdet3d
    from mmengine.registry import DefaultScope

    folder = Path(mmdet3d.__file__).parent / ".mim" / "tools" / "dataset_converters"

    def converter(name: str) -> ModuleType:
        # Imported by its path, because the folder has the same name as ours.
        unique = f"_mmdet3d_dataset_converters_{name}"
        if unique in sys.modules:
            return sys.modules[unique]
        path = folder / f"{name}.py"
        if not path.is_file():
            raise KittiError(
                f"mmdet3d's converter {path} is missing; its wheel has it there: install mmdet3d "
                "1.4 as a wheel"
            )
        spec = importlib.util.spec_from_file_location(unique, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[unique] = module
        return module

    with (
        DefaultScope.overwrite_default_scope("mmdet3d"),
        contextlib.redirect_stdout(io.StringIO()),
        no_progress_bars(),
    ):
        import mmdet3d.datasets

        yield converter


def _read(converter, root: Path, numbers: list[int], labelled: bool) -> list[dict]:
    """Infos of some frames in mmdet3d's old format: calibration, image size, labels, difficulty."""
    get = converter("kitti_data_utils").get_kitti_image_info
    return get(
        str(root),
        training=labelled,
        label_info=labelled,
        velodyne=True,
        calib=True,
        image_ids=numbers,
        num_worker=1,
    )


def _reduce(root: Path, out: Path, info: dict) -> None:
    """Write the reduced points of a frame, and add the number in every box to its info."""
    calibration = info["calib"]
    camera = Camera(
        projection=calibration["P2"][:3],
        lidar_to_camera=calibration["R0_rect"] @ calibration["Tr_velo_to_cam"],
        image_shape=tuple(int(side) for side in info["image"]["image_shape"]),
    )
    scan = Path(info["point_cloud"]["velodyne_path"])
    points = np.fromfile(root / scan, np.float32).reshape(-1, 4)
    points = points[in_image(points, camera)]
    reduced = out / scan.parent.with_name(f"{scan.parent.name}_reduced") / scan.name
    write_bytes(reduced, points.tobytes())
    if "annos" not in info:
        return
    labels = info["annos"]
    boxes = np.column_stack([labels["location"], labels["dimensions"], labels["rotation_y"]])
    inside = points_in_boxes(points, camera.boxes_to_lidar(boxes.reshape(-1, 7)))
    # mmdet3d marks regions without a box by -1.
    counts = np.where(labels["name"] == "DontCare", -1, inside.sum(0))
    labels["num_points_in_gt"] = counts.astype(np.int32)


def _convert(converter, infos: list[dict], path: Path) -> None:
    """Convert infos of the old format to the current one, and write them."""
    with tempfile.TemporaryDirectory() as old:
        Path(old, path.name).write_bytes(pickle.dumps(infos))
        convert = converter("update_infos_to_v2").update_kitti_infos
        convert(str(Path(old, path.name)), str(path.parent))


def _make_database(converter, out: Path, made: Path) -> None:
    """Cut the objects of the split ``train`` out of the reduced scans."""
    create = converter("create_gt_database").create_groundtruth_database
    create(
        "KittiDataset",
        str(out),
        "kitti",
        str((made / info_file("train")).resolve()),
        database_save_path=str(made / _OBJECTS),
        db_info_save_path=str(made / DATABASE),
        relative_path=False,
    )
