"""Folders in KITTI's layout: written, prepared, and read back by mmdet3d's `KittiDataset`."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset_converters.kitti_preparation import DATABASE, KittiError, info_file, prepare_kitti
from dataset_converters.kitti_writer import write_kitti
from ebm_mmdet3d.datasets.kitti_geometry import (
    SYNTHETIC_CAMERA,
    difficulty,
    image_boxes,
    in_image,
    occlusion_level,
    points_in_boxes,
)
from ebm_mmdet3d.datasets.lidar_scenes import CLASSES, Lidar, SceneOptions, render_scene

pytest.importorskip("mmdet3d", reason="KITTI's preparation uses its converters")

from mmdet3d.datasets import KittiDataset
from mmengine.registry import DefaultScope

OPTIONS = SceneOptions(
    extent=(6, -12, 40, 12),
    num_vehicles=(4, 6),
    num_clutter=(3, 5),
    van_share=0.3,
    lidar=Lidar(num_beams=24, azimuth_step=0.6),
)
COUNTS = {"train": 3, "val": 2}
SAMPLE = Path(os.environ.get("EBM_DATA_ROOT", "/nonexistent"), "data", "kitti_sample")
needs_sample = pytest.mark.skipif(
    not SAMPLE.is_dir(), reason="EBM_DATA_ROOT does not name a folder with data/kitti_sample"
)
LOAD = [
    dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=4, use_dim=4),
    dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = write_kitti(tmp_path_factory.mktemp("kitti") / "scenes", COUNTS, 7, OPTIONS)
    prepare_kitti(root, database=True)
    return root


def frames(root, split, classes=None):
    """Every frame of a split as `KittiDataset` loads it."""
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        dataset = KittiDataset(
            data_root=str(root),
            ann_file=info_file(split),
            data_prefix=dict(pts="training/velodyne_reduced"),
            pipeline=LOAD,
            filter_empty_gt=False,
            **(dict(metainfo=dict(classes=classes)) if classes else {}),
        )
        return [
            dataset.pipeline({**dataset.get_data_info(i)}) | dict(meta=dataset.metainfo)
            for i in range(len(dataset))
        ]


def infos(root, split):
    return pickle.loads((root / info_file(split)).read_bytes())["data_list"]


def test_round_trip_through_mmdet3d(folder):
    number = 0
    for split, count in COUNTS.items():
        loaded = frames(folder, split)
        assert len(loaded) == count
        for frame, info in zip(loaded, infos(folder, split)):
            scene = render_scene(7, number, OPTIONS)
            seen = in_image(scene.points, SYNTHETIC_CAMERA)
            np.testing.assert_array_equal(frame["points"].tensor.numpy(), scene.points[seen])
            flat, truncation = image_boxes(scene.boxes, SYNTHETIC_CAMERA)
            rows = truncation < 1
            boxes = frame["gt_bboxes_3d"].tensor.numpy()
            np.testing.assert_allclose(boxes, scene.boxes[rows], atol=2e-5)
            names = [frame["meta"]["classes"][label] for label in frame["gt_labels_3d"]]
            assert names == [CLASSES[label] for label in scene.labels[rows]]
            # What the evaluation reads.
            instances = info["instances"]
            level = occlusion_level(scene.occlusion)
            hard = difficulty(flat[:, 3] - flat[:, 1], level, truncation.round(2))
            assert [i["difficulty"] for i in instances] == hard[rows].tolist()
            inside = points_in_boxes(scene.points[seen], scene.boxes[rows]).sum(0)
            counted = [i["num_lidar_pts"] for i in instances]
            np.testing.assert_allclose(counted, inside, atol=1)  # a point on a face
            np.testing.assert_allclose([i["bbox"] for i in instances], flat[rows], atol=1e-5)
            image = info["images"]["CAM2"]
            assert (image["height"], image["width"]) == SYNTHETIC_CAMERA.image_shape
            number += 1


def test_classes_of_a_config(folder):
    for frame in frames(folder, "train", ["Car"]):
        assert set(frame["gt_labels_3d"]) <= {0}
    both = np.concatenate([f["gt_labels_3d"] for f in frames(folder, "train", ["Car", "Van"])])
    assert set(both) == {0, 1}


def test_the_endless_data_set_gives_what_the_folder_gives(folder):
    from ebm_mmdet3d.datasets import LidarScenesDataset

    scene = dict(
        extent=list(OPTIONS.extent),
        num_vehicles=[4, 6],
        num_clutter=[3, 5],
        van_share=0.3,
        lidar=dict(num_beams=24, azimuth_step=0.6),
    )
    endless = LidarScenesDataset(seed=7, scene=scene)
    assert endless.options == OPTIONS
    for index, frame in enumerate(frames(folder, "train", list(CLASSES))):
        drawn = endless[index]
        np.testing.assert_array_equal(drawn["points"].tensor, frame["points"].tensor)
        counts = [i["num_lidar_pts"] for i in frame["instances"]]
        keep = np.array(counts) >= 1
        np.testing.assert_allclose(
            drawn["gt_bboxes_3d"].tensor, frame["gt_bboxes_3d"].tensor[keep], atol=2e-5
        )
        np.testing.assert_array_equal(drawn["gt_labels_3d"], frame["gt_labels_3d"][keep])
    few = LidarScenesDataset(seed=7, scene=scene, min_points=40)[0]["gt_bboxes_3d"]
    assert 0 < len(few) < len(endless[0]["gt_bboxes_3d"])
    with pytest.raises(IndexError, match="index 5"):
        LidarScenesDataset(num_scenes=5)[5]
    with pytest.raises(ValueError, match="got 0"):
        LidarScenesDataset(num_scenes=0)


def test_by_default_nothing_is_trained_on_what_it_is_tested_on():
    from dataset_converters.create_kitti_infos import parse_args
    from ebm_mmdet3d.datasets import LidarScenesDataset

    assert LidarScenesDataset().seed != parse_args(["data/kitti"]).seed


def test_database_holds_the_objects(folder):
    database = pickle.loads((folder / DATABASE).read_bytes())
    truth = [i["num_lidar_pts"] for info in infos(folder, "train") for i in info["instances"]]
    listed = [entry for entries in database.values() for entry in entries]
    assert set(database) <= {"Car", "Van"}
    assert len(listed) == len(truth)
    for entry in listed:
        points = np.fromfile(folder / entry["path"], np.float32).reshape(-1, 4)
        assert len(points) == entry["num_points_in_gt"]
        box = np.concatenate([np.zeros(3), entry["box3d_lidar"][3:7]])
        assert points_in_boxes(points, box[None], margin=1e-3).all()


def test_same_seed_same_folder_and_nothing_is_overwritten(folder, tmp_path):
    again = write_kitti(tmp_path / "again", COUNTS, 7, OPTIONS)
    files = sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert len(files) == 2 + 5 * 4
    for file in files:
        assert (again / file).read_bytes() == (folder / file).read_bytes()
    with pytest.raises(FileExistsError, match="again exists"):
        write_kitti(again, {"val": 1}, 0)
    stamp = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    with pytest.raises(FileExistsError, match=r"kitti_infos_train\.pkl"):
        prepare_kitti(folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == stamp
    with pytest.raises(ValueError, match="'val': 0"):
        write_kitti(tmp_path / "none", {"val": 0}, 0)


def test_an_interrupted_write_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    import dataset_converters.kitti_writer as writer

    real, calls = writer.render_scene, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(writer, "render_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_kitti(tmp_path / "scenes", COUNTS, 7, OPTIONS)
    assert not (tmp_path / "scenes").exists()
    write_kitti(tmp_path / "scenes", {"val": 1}, 7, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


def test_a_read_only_root_is_only_read(folder, tmp_path):
    before = sorted(folder.rglob("*"))
    made = prepare_kitti(folder, tmp_path / "out", splits=["val"])
    assert made == [tmp_path / "out" / info_file("val")]
    assert sorted(folder.rglob("*")) == before
    assert len(list((tmp_path / "out" / "training" / "velodyne_reduced").iterdir())) == 2


def test_frames_without_any_object(folder, tmp_path):
    root = tmp_path / "empty"
    shutil.copytree(folder, root, ignore=shutil.ignore_patterns("kitti_*", "velodyne_reduced"))
    (root / "training" / "label_2" / "000000.txt").write_text("")
    (root / "training" / "label_2" / "000001.txt").write_text(
        "DontCare -1 -1 -10 0 0 20 20 -1 -1 -1 -1000 -1000 -1000 -10\n"
    )
    prepare_kitti(root, database=True)
    nothing, dont_care, _ = frames(root, "train", ["Car"])
    assert len(nothing["gt_bboxes_3d"]) == len(dont_care["gt_bboxes_3d"]) == 0
    assert len(nothing["points"]) > 0


def test_messages_name_what_is_missing(folder, tmp_path):
    with pytest.raises(KittiError, match="no split in.*expected layout"):
        prepare_kitti(tmp_path)
    with pytest.raises(KittiError, match=r"test\.txt is missing"):
        prepare_kitti(folder, tmp_path, splits=["test"])
    root = tmp_path / "root"
    shutil.copytree(folder, root, ignore=shutil.ignore_patterns("kitti_*", "velodyne_reduced"))
    (root / "training" / "calib" / "000001.txt").unlink()
    with pytest.raises(KittiError, match=r"1 of the 3 files.*000001\.txt"):
        prepare_kitti(root)
    (root / "ImageSets" / "train.txt").write_text("one\n")
    with pytest.raises(KittiError, match="one frame number per line"):
        prepare_kitti(root)
    with pytest.raises(KittiError, match="made of the split 'train'"):
        prepare_kitti(root, splits=["val"], database=True)
    assert not (root / "training" / "velodyne_reduced").exists()


def test_the_command_in_a_folder_with_blanks_from_anywhere(tmp_path):
    """As a script, for which only its own folder is on Python's path."""
    repository = Path(__file__).resolve().parents[3]
    script = repository / "tools" / "dataset_converters" / "create_kitti_infos.py"
    root = tmp_path / "my kitti, all of it"
    path = os.pathsep.join([str(repository), str(repository / "ops")])
    done = subprocess.run(
        [sys.executable, script, root.name, "--generate", "train=2", "val=1", "--database"],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert len(infos(root, "train")) == 2
    assert all(len(frame["points"]) for frame in frames(root, "train"))
    database = pickle.loads((root / DATABASE).read_bytes())
    entries = [entry for entries in database.values() for entry in entries]
    assert entries
    assert all((root / entry["path"]).is_file() for entry in entries)


@needs_sample
def test_real_frame_000008(tmp_path):
    """Boxes and point counts in mmdet3d's own data for this frame."""
    prepare_kitti(SAMPLE, tmp_path, splits=["val"])
    (frame,) = [
        f for f in frames(tmp_path, "val", ["Car"]) if f["lidar_path"].endswith("000008.bin")
    ]
    assert len(frame["points"]) == 17_238
    counts = [i["num_lidar_pts"] for i in frame["instances"] if i["bbox_label"] == 2]
    assert counts == [1325, 1900, 881, 659, 55, 162]
    expected = [
        [3.970, 2.717, -1.745, 3.23, 1.57, 1.60, -0.281],
        [8.149, 1.186, -1.628, 3.68, 1.50, 1.57, 2.812],
        [6.441, -3.794, -1.688, 3.08, 1.44, 1.39, -0.261],
        [14.729, -1.054, -1.483, 3.66, 1.60, 1.47, -0.321],
        [33.489, -7.221, -1.352, 4.08, 1.63, 1.70, 2.762],
        [20.252, -8.461, -1.703, 2.47, 1.59, 1.59, -0.321],
    ]
    np.testing.assert_allclose(frame["gt_bboxes_3d"].tensor, expected, atol=1e-3)


@needs_sample
def test_every_real_frame_with_its_database(tmp_path):
    prepare_kitti(SAMPLE, tmp_path, database=True)
    found = frames(tmp_path, "trainval")
    assert len(found) == 7
    names = [f["meta"]["classes"][label] for f in found for label in f["gt_labels_3d"]]
    assert {name: names.count(name) for name in set(names)} == dict(
        Car=15, Pedestrian=2, Cyclist=1, Truck=1
    )
    database = pickle.loads((tmp_path / DATABASE).read_bytes())
    assert len(database["Car"]) == 9  # of the split train
