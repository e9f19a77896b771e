"""The metric from annotation file and predictions to values, table and submission files."""

from __future__ import annotations

import importlib
import logging
import math

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("mmdet3d")

import torch
from mmdet3d.registry import METRICS
from mmdet3d.structures import (
    Box3DMode,
    CameraInstance3DBoxes,
    LiDARInstance3DBoxes,
    points_cam2img,
)
from mmengine.fileio import dump, load
from mmengine.logging import MMLogger

import ebm_mmdet3d  # noqa: F401
from ebm_mmdet3d.evaluation import kitti_average_precision as core

# Of the detector and of the annotations; labels differ on purpose.
CLASSES = ("Car", "Pedestrian", "Cyclist")
CATEGORIES = {"Pedestrian": 0, "Cyclist": 1, "Car": 2, "Van": 3, "DontCare": -1}
LIDAR2CAM = np.array([[0, -1, 0, 0.1], [0, 0, -1, -0.1], [1, 0, 0, -0.3], [0, 0, 0, 1.0]])
CAM2IMG = np.array([[700, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.9)


def car_park(seed: int) -> LiDARInstance3DBoxes:
    """20 cars that do not overlap, near enough to be easy, with any heading."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(10, 22, 4), np.linspace(-8, 8, 5))
    rows = np.column_stack(
        (
            x.ravel(),
            y.ravel() * x.ravel() / 22,
            rng.normal(-1.7, 0.05, 20),
            rng.uniform(1.8, 2.2, 20),
            rng.uniform(0.8, 1.0, 20),
            rng.uniform(1.4, 1.7, 20),
            rng.uniform(-3, 3, 20),
        )
    )
    return LiDARInstance3DBoxes(torch.tensor(rows, dtype=torch.float32))


def frame_info(number: int, boxes: LiDARInstance3DBoxes | None, labels=None) -> dict:
    """A frame as in the annotation files that mmdet3d makes for KITTI."""
    instances = []
    if boxes is not None:
        camera = boxes.convert_to(Box3DMode.CAM, LIDAR2CAM.astype(np.float32))
        labels = [CATEGORIES["Car"]] * len(boxes) if labels is None else labels
        pixels = points_cam2img(camera.corners, torch.tensor(CAM2IMG, dtype=torch.float32))
        low, high = pixels.min(1).values, pixels.max(1).values
        image_boxes = torch.cat((low.clip(min=0), high.minimum(torch.tensor([1242, 375]))), 1)
        instances = [
            dict(
                bbox=image_box.tolist(),
                bbox_label=label,
                bbox_label_3d=label,
                bbox_3d=box.tolist(),
                truncated=0.0,
                occluded=0,
                alpha=0.1,
                score=0.0,
            )
            for box, label, image_box in zip(camera.tensor, labels, image_boxes)
        ]
    image = dict(img_path=f"{number:06d}.png", height=375, width=1242)
    return dict(
        sample_idx=number,
        images=dict(CAM2=dict(image, cam2img=CAM2IMG.tolist(), lidar2cam=LIDAR2CAM.tolist())),
        lidar_points=dict(num_pts_feats=4, lidar_path=f"{number:06d}.bin"),
        instances=instances,
    )


def prediction(index: int, number: int | None, boxes, scores=None, labels=None, **more) -> dict:
    n = len(boxes)
    sample = dict(
        sample_idx=index,
        pred_instances_3d=dict(
            bboxes_3d=boxes,
            scores_3d=torch.linspace(0.9, 0.2, n) if scores is None else torch.tensor(scores),
            labels_3d=torch.zeros(n, dtype=torch.long) if labels is None else torch.tensor(labels),
        ),
        **more,
    )
    if number is not None:
        sample["lidar_path"] = f"some/folder/velodyne_reduced/{number:06d}.bin"
    return sample


NONE = LiDARInstance3DBoxes(torch.zeros(0, 7))


def build(path, infos, kind="EBMKittiMetric", classes=("Car",), categories=CATEGORIES, **kwargs):
    dump(dict(metainfo=dict(categories=categories), data_list=infos), path / "infos.pkl")
    metric = METRICS.build(dict(type=kind, ann_file=str(path / "infos.pkl"), **kwargs))
    metric.dataset_meta = dict(classes=classes)
    return metric


def evaluate(metric, samples) -> dict[str, float]:
    """Values without the prefixes of mmengine and of the kind of prediction."""
    metric.process({}, samples)
    values = metric.evaluate(size=len(samples))
    return {
        key.removeprefix("Kitti metric/pred_instances_3d/KITTI/"): values[key] for key in values
    }


def noisy(boxes: LiDARInstance3DBoxes, seed: int, noise: float = 0.06) -> LiDARInstance3DBoxes:
    generator = torch.Generator().manual_seed(seed)
    rows = boxes.tensor.clone()
    spread = noise * torch.rand(len(rows), 1, generator=generator)
    return LiDARInstance3DBoxes(rows + spread * torch.randn(rows.shape, generator=generator))


@pytest.fixture
def kitti_metric_on_cpu(monkeypatch):
    """mmdet3d's own metric, with the two functions replaced that need a GPU."""
    module = importlib.import_module("mmdet3d.evaluation.functional.kitti_utils.eval")
    monkeypatch.setattr(module, "bev_box_overlap", core.bev_overlaps_camera)
    monkeypatch.setattr(module, "d3_box_overlap", core.iou_3d_camera)


@pytest.fixture
def log():
    """Messages of mmengine's logger."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler, logger = Keep(logging.INFO), MMLogger.get_current_instance()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_ground_truth_is_100_for_all_thresholds(tmp_path):
    """Also with a first frame without objects, a last one without detections or both."""
    parks = [car_park(seed) for seed in range(3)]
    infos = [frame_info(0, None), *(frame_info(k + 1, b) for k, b in enumerate(parks))]
    infos.append(frame_info(4, None))
    samples = [prediction(k, k, boxes) for k, boxes in enumerate((NONE, *parks, NONE))]
    values = evaluate(build(tmp_path, infos), samples)
    for kind in ("3D", "BEV"):
        for positions in (11, 40, 41):
            for difficulty in ("easy", "moderate", "hard"):
                for threshold in THRESHOLDS:
                    key = f"Car_{kind}_AP{positions}_{difficulty}_IoU{threshold:g}"
                    assert values[key] == 100, key


def test_values_by_hand(tmp_path):
    """Length 2, moved by d along itself, IoU (2 - d) / (2 + d): 0.818 for 0.2."""
    boxes = car_park(0)
    boxes.tensor[:, 3:6] = torch.tensor([2.0, 1.0, 1.5])
    boxes.tensor[:, 6] = 0.3
    moved = boxes.tensor.clone()
    moved[:, 0] += 0.2 * math.cos(0.3)
    moved[:, 1] += 0.2 * math.sin(0.3)
    infos = [frame_info(k, boxes) for k in range(3)]
    samples = [prediction(k, k, LiDARInstance3DBoxes(moved.clone())) for k in range(3)]
    values = evaluate(build(tmp_path, infos), samples)
    found = [values[f"Car_3D_AP40_moderate_IoU{t:g}"] for t in THRESHOLDS]
    assert found == [100, 100, 100, 0, 0]


def mixed_scene(seed: int):
    """Three classes, vans and DontCare regions; noisy predictions, some of them wrong."""
    rng = np.random.default_rng(seed)
    detector_label = {0: 1, 1: 2, 2: 0, 3: 0, -1: 0}
    parks = [car_park(10 * seed + k) for k in range(4)]
    labels = [rng.choice([0, 1, 2, 3, -1], 20, p=[0.2, 0.2, 0.4, 0.1, 0.1]) for _ in parks]
    infos = [frame_info(k, b, c.tolist()) for k, (b, c) in enumerate(zip(parks, labels))]
    samples = [
        prediction(k, k, noisy(b, k), rng.random(20), [detector_label[label] for label in c])
        for k, (b, c) in enumerate(zip(parks, labels))
    ]
    return infos, samples


@pytest.mark.parametrize("kind", ["bbox", "img_bbox"])
def test_has_all_values_of_mmdet3d(tmp_path, kitti_metric_on_cpu, kind):
    infos, samples = mixed_scene(1)
    for sample in samples:
        sample["pred_instances"] = {}
    theirs = evaluate(build(tmp_path, infos, "KittiMetric", CLASSES, metric=kind), samples)
    ours = evaluate(build(tmp_path, infos, classes=CLASSES, metric=kind), samples)
    assert theirs.keys() <= ours.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=5.1e-5), key
    assert (len(theirs), kind) in ((126, "bbox"), (42, "img_bbox"))
    assert len({round(value, 3) for value in theirs.values()}) > 5  # or it compares little


def test_camera_detectors_are_evaluated_too(tmp_path):
    boxes = car_park(0)
    camera = boxes.convert_to(Box3DMode.CAM, LIDAR2CAM.astype(np.float32))
    sample = prediction(0, None, CameraInstance3DBoxes(camera.tensor))
    sample["img_path"] = "image_2/000007.png"
    values = evaluate(build(tmp_path, [frame_info(7, boxes)]), [sample])
    assert values["Car_3D_AP41_easy_IoU0.9"] == pytest.approx(100 * 20 / 41)


def test_image_boxes_are_evaluated_too(tmp_path):
    info = frame_info(0, car_park(0)[:1])
    box = torch.tensor([info["instances"][0]["bbox"]])
    found = dict(bboxes=box, scores=torch.tensor([0.5]), labels=torch.tensor([0]))
    sample = prediction(0, 0, NONE, pred_instances=found)
    metric = build(tmp_path, [info])
    metric.process({}, [sample])
    values = metric.evaluate(size=1)
    key = "Kitti metric/pred_instances/KITTI/Car_2D_AP11_easy_strict"
    assert values[key] == pytest.approx(100 / 11)


def test_a_subset_in_any_order_is_evaluated_by_file_name(tmp_path, log):
    infos, samples = mixed_scene(2)
    part = [2, 0]
    expected = [infos[k] for k in part], [samples[k] for k in part]
    expected = evaluate(build(tmp_path, expected[0], classes=CLASSES), expected[1])
    # What a shuffled part of a data set gives: positions that are not those of the file.
    found = [dict(samples[k], sample_idx=index) for index, k in enumerate(part)]
    values = evaluate(build(tmp_path, infos, classes=CLASSES), found)
    assert values == pytest.approx(expected, nan_ok=True)
    assert any("2 of the 4 frames" in line for line in log)
    assert values["Car_BEV_AP11_hard_IoU0.7"] > 0


def test_without_file_names_the_position_counts(tmp_path):
    infos, samples = mixed_scene(3)
    expected = evaluate(build(tmp_path, infos, classes=CLASSES), samples)
    for sample in samples:
        del sample["lidar_path"]
    values = evaluate(build(tmp_path, infos, classes=CLASSES), samples[::-1])
    assert values == pytest.approx(expected, nan_ok=True)
    with pytest.raises(ValueError, match="3 predictions for 4 annotated frames, and no file"):
        evaluate(build(tmp_path, infos, classes=CLASSES), samples[:3])


def test_numbers_of_samples_that_are_no_positions_are_pointed_out(tmp_path):
    """They could be anybody's: names, or KITTI's own numbers."""
    infos, samples = mixed_scene(3)
    for sample in samples:
        del sample["lidar_path"]
    for number in ("000001", 1):
        samples[1]["sample_idx"] = number
        evaluate(build(tmp_path, infos, classes=CLASSES), samples)
    for number in ("seq_1", None, 4, -1):
        samples[1]["sample_idx"] = number
        with pytest.raises(
            ValueError, match=rf"sample_idx={number!r}, expected its position.*0 to"
        ):
            evaluate(build(tmp_path, infos, classes=CLASSES), samples)


def test_files_may_have_any_name(tmp_path):
    infos, samples = mixed_scene(3)
    expected = evaluate(build(tmp_path, infos, classes=CLASSES), samples)
    for k, (info, sample) in enumerate(zip(infos, samples)):
        info["lidar_points"]["lidar_path"] = f"a drive {k}.bin"
        sample["lidar_path"] = f"some folder/a drive {k}.bin"
    values = evaluate(build(tmp_path, infos, classes=CLASSES), samples[::-1])
    assert values == pytest.approx(expected, nan_ok=True)


def test_files_of_the_same_name_are_told_apart_by_position_or_not_at_all(tmp_path):
    infos, samples = mixed_scene(3)
    for k, (info, sample) in enumerate(zip(infos, samples)):
        info["lidar_points"]["lidar_path"] = f"drive{k}/000000.bin"
        sample["lidar_path"] = f"drive{k}/000000.bin"
    evaluate(build(tmp_path, infos, classes=CLASSES), samples)
    with pytest.raises(ValueError, match="3 predictions for 4 .* files of the same name"):
        evaluate(build(tmp_path, infos, classes=CLASSES), samples[:3])


def test_a_label_without_a_class_stops_at_once(tmp_path):
    infos, samples = mixed_scene(3)
    samples[0]["pred_instances_3d"]["labels_3d"][0] = 5
    metric = build(tmp_path, infos, classes=CLASSES)
    with pytest.raises(ValueError, match=r"label 5, but the data set has the classes.*num_classes"):
        metric.process({}, samples)


def test_files_that_are_not_annotated_are_pointed_out(tmp_path):
    infos, samples = mixed_scene(3)
    samples[2]["lidar_path"] = "velodyne/000017.bin"
    with pytest.raises(ValueError, match="1 of 4 predictions .* not annotated, '000017' among"):
        evaluate(build(tmp_path, infos, classes=CLASSES), samples)


def test_nothing_is_predicted_twice(tmp_path):
    infos, samples = mixed_scene(3)
    with pytest.raises(ValueError, match="frame '000001' was predicted twice"):
        evaluate(build(tmp_path, infos, classes=CLASSES), [samples[0], samples[1], samples[1]])
    with pytest.raises(ValueError, match="no predictions"):
        build(tmp_path, infos, classes=CLASSES).compute_metrics([])


def test_a_class_without_objects_is_nan(tmp_path):
    infos = [frame_info(0, car_park(0))]
    values = evaluate(build(tmp_path, infos, classes=CLASSES), [prediction(0, 0, car_park(0))])
    assert math.isnan(values["Cyclist_3D_AP40_easy_strict"])
    assert values["Overall_3D_AP40_easy"] == values["Car_3D_AP40_easy_strict"] > 0


def test_predictions_may_carry_more(tmp_path):
    infos = [frame_info(0, car_park(0))]
    sample = prediction(0, 0, car_park(0))
    expected = evaluate(build(tmp_path, infos), [prediction(0, 0, car_park(0))])
    sample["pred_instances_3d"].update(log_density=torch.zeros(20), note="kept elsewhere")
    assert evaluate(build(tmp_path, infos), [sample]) == expected


def test_table(tmp_path, log):
    infos = [frame_info(k, car_park(k)) for k in range(3)]
    metric = build(tmp_path, infos, iou_thresholds=(0.75, 0.9), recall_positions=(41,))
    values = evaluate(metric, [prediction(k, k, car_park(k)) for k in range(3)])
    (table,) = [line for line in log if "AP of Car" in line]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows[0].split("|")[2].strip() == "AP41, easy / moderate / hard"
    names = ["3D at IoU 0.75", "3D at IoU 0.90", "BEV at IoU 0.75", "BEV at IoU 0.90"]
    assert [row.split("|")[1].strip() for row in rows[1:]] == [*names, "2D at IoU 0.70"]
    assert all("100.00 / 100.00 / 100.00" in row for row in rows[1:])
    assert "Car objects, easy / moderate / hard: 60 / 60 / 60" in table
    assert "Car_3D_AP41_easy_IoU0.9" in values
    assert "Car_3D_AP40_easy_IoU0.9" not in values


def test_submission_files_carry_the_number_of_the_frame(tmp_path):
    info = frame_info(17, None)
    del info["instances"]  # as in the test set
    metric = build(
        tmp_path, [info], format_only=True, submission_prefix=str(tmp_path / "submission")
    )
    assert evaluate(metric, [prediction(0, 17, car_park(0))]) == {}
    (file,) = (tmp_path / "submission" / "pred_instances_3d").iterdir()
    assert file.name == "000017.txt"
    assert len(file.read_text().splitlines()) == 20
    with pytest.raises(ValueError, match=r"no annotations \(no 'instances' in frame 17\)"):
        evaluate(build(tmp_path, [info]), [prediction(0, 17, car_park(0))])


def test_results_can_be_kept(tmp_path):
    infos, samples = mixed_scene(1)
    expected = evaluate(build(tmp_path, infos, classes=CLASSES), samples)
    metric = build(tmp_path, infos, classes=CLASSES, pklfile_prefix=str(tmp_path / "results"))
    assert evaluate(metric, samples) == expected
    kept = load(tmp_path / "results" / "pred_instances_3d.pkl")
    assert [len(frame["name"]) for frame in kept] == [20] * 4


@pytest.mark.parametrize("name", ["submission_prefix", "pklfile_prefix"])
def test_results_of_an_earlier_run_are_neither_overwritten_nor_mixed_with_new_ones(name, tmp_path):
    infos, samples = mixed_scene(1)
    options = dict(classes=CLASSES, **{name: str(tmp_path / "my results")})
    metric = build(tmp_path, infos, **options)
    for _ in range(2):  # the validations of one training
        evaluate(metric, samples)
    before = {path: path.read_bytes() for path in (tmp_path / "my results").rglob("*.*")}
    assert before
    with pytest.raises(FileExistsError, match=rf"{name}=.*my results' has results"):
        build(tmp_path, infos[:1], **options)
    assert {path: path.read_bytes() for path in before} == before


def test_labels_without_a_name_are_pointed_out(tmp_path):
    infos = [frame_info(0, car_park(0), [5] * 20)]
    with pytest.raises(ValueError, match=r"labels \[5\], but .* names \[-1, 0, 1, 2, 3\]"):
        evaluate(build(tmp_path, infos), [prediction(0, 0, car_park(0))])
    # A file of frames without DontCare regions does not name them.
    some = {"Car": 2}
    infos = [frame_info(0, car_park(0), [2] * 19 + [-1])]
    values = evaluate(build(tmp_path, infos, categories=some), [prediction(0, 0, car_park(0)[:19])])
    assert values["Car_3D_AP41_easy_IoU0.9"] == pytest.approx(100 * 19 / 41)


def test_arguments(tmp_path):
    spellings = ["EBMKittiMetric", "ebm_mmdet3d.EBMKittiMetric"]
    spellings.append("ebm_mmdet3d.evaluation.ebm_kitti_metric.EBMKittiMetric")
    for kind in spellings:
        metric = METRICS.build(dict(type=kind, ann_file="none.pkl"))
        assert metric.iou_thresholds == THRESHOLDS
        assert metric.recall_positions == (11, 40, 41)
        assert metric.metrics == ["bbox"]
    with pytest.raises(ValueError, match="iou_thresholds: 70"):
        build(tmp_path, [], iou_thresholds=[70])
    with pytest.raises(ValueError, match="recall_positions: 12"):
        build(tmp_path, [], recall_positions=[12])


def test_a_misspelt_class_is_refused_before_the_evaluation(tmp_path):
    dump(dict(metainfo=dict(categories=CATEGORIES), data_list=[]), tmp_path / "infos.pkl")
    metric = METRICS.build(dict(type="EBMKittiMetric", ann_file=str(tmp_path / "infos.pkl")))
    metric.dataset_meta = dict(classes=CLASSES)
    with pytest.raises(ValueError, match=r"1 of the 2 classes .*'Cra'; did you mean 'Car'\?"):
        metric.dataset_meta = dict(classes=("Van", "Cra"))
    assert metric.dataset_meta == dict(classes=CLASSES)
