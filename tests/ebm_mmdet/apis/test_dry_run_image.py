"""Which image a detector is run on to see its maps, and what is said about it."""

from __future__ import annotations

import json
import warnings

import cv2
import numpy as np
import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ebm_mmdet.apis import add_energy_head, inspect_config
from ebm_mmdet.apis.dry_run_image import run_as_in_test
from tests.ebm_mmdet.models.toys import detector_cfg

LOAD = dict(type="LoadImageFromFile")
RESIZE = dict(type="Resize", scale=(640, 400), keep_ratio=True)
PACK = dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape"))
BLANK = "blank, 640 x 480 px, through the test pipeline; the network reads 544 x 416 px"


@pytest.fixture(scope="module", autouse=True)
def _scope():
    init_default_scope("mmdet")


@pytest.fixture(scope="module")
def detector():
    return MODELS.build(detector_cfg("retinanet")).eval()


@pytest.fixture
def data(tmp_path):
    """Config of a data set of one image of 300 x 200 pixels."""
    image = np.zeros((200, 300, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    images = [dict(id=1, file_name="a.png", width=300, height=200)]
    categories = [dict(id=1, name="ape")]
    content = dict(images=images, annotations=[], categories=categories)
    (tmp_path / "ann.json").write_text(json.dumps(content))
    return dict(
        type="CocoDataset",
        data_root=str(tmp_path),
        ann_file="ann.json",
        data_prefix=dict(img=""),
        metainfo=dict(classes=("ape",)),
        test_mode=True,
        pipeline=[LOAD, RESIZE, PACK],
    )


def strides(run):
    return [each.stride for each in run.outputs["neck"]]


def test_the_first_image_of_the_data_is_run_at_the_size_of_the_test(detector, data, capsys):
    found = run_as_in_test(detector, [data])
    # 300 x 200 px by the resize to 600 x 400, and by the preprocessor to multiples of 32.
    assert found.image == "a.png of ann.json, 300 x 200 px; the network reads 608 x 416 px"
    assert not found.faults
    assert found.run.shape == (416, 608)
    assert strides(found.run) == [8, 16, 32, 64, 128]
    assert capsys.readouterr().out == ""  # pycocotools tells what it does


def test_without_data_a_blank_image_goes_through_the_pipeline(detector, data):
    data["ann_file"] = "none.json"
    found = run_as_in_test(detector, [data])
    assert found.image.startswith(f"{BLANK} (no test data here: ")
    assert "none.json" in found.image
    assert not found.faults
    assert strides(found.run) == [8, 16, 32, 64, 128]


def test_what_loads_annotations_of_a_file_is_left_out_for_a_blank_image(detector, data):
    data["ann_file"] = "none.json"
    masks = dict(type="LoadAnnotations", with_bbox=True, with_mask=True, with_seg=True)
    data["pipeline"] = [LOAD, masks, dict(type="LoadProposals"), RESIZE, PACK]
    found = run_as_in_test(detector, [data])
    assert found.image.startswith(BLANK)
    assert not found.faults


def test_a_blank_image_is_of_the_type_that_the_loader_gives(detector, data):
    """CenterNet's test pads images of floats alone, here by 32 px in both directions."""
    data["ann_file"] = "none.json"
    pad = dict(type="RandomCenterCropPad", ratios=None, border=None, test_mode=True)
    pad |= dict(mean=[0.0] * 3, std=[1.0] * 3, to_rgb=True, test_pad_mode=["logical_or", 31])
    data["pipeline"] = [dict(LOAD, to_float32=True), dict(pad, test_pad_add_pix=1), PACK]
    found = run_as_in_test(detector, [data])
    assert "through the test pipeline; the network reads 672 x 512 px" in found.image
    assert not found.faults


def test_a_grey_detector_gets_a_grey_blank_image(data):
    cfg = detector_cfg("retinanet")
    cfg.backbone.in_channels = 1
    cfg.data_preprocessor = dict(type="DetDataPreprocessor", mean=[120.0], std=[60.0])
    data["pipeline"][0] = dict(LOAD, color_type="grayscale")
    grey = MODELS.build(cfg)
    assert run_as_in_test(grey, [data]).image.startswith("a.png of ann.json")
    data["ann_file"] = "none.json"
    found = run_as_in_test(grey, [data])
    assert found.image.startswith("blank, 640 x 480 px, through the test pipeline")
    assert not found.faults


def test_the_validation_data_is_taken_where_that_of_the_test_is_absent(detector, data):
    found = run_as_in_test(detector, [dict(data, ann_file="none.json"), data])
    assert found.image.startswith("a.png of ann.json, 300 x 200 px")
    assert not found.faults


def no_json(folder):
    (folder / "ann.json").write_text("{")


def no_image(folder):
    (folder / "a.png").unlink()


def half_an_image(folder):
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:40])


def no_images(folder):
    (folder / "ann.json").write_text(json.dumps(dict(images=[], annotations=[], categories=[])))


@pytest.mark.parametrize("spoil", [no_json, no_image, half_an_image, no_images])
def test_data_that_is_there_and_cannot_be_read_is_no_absent_data(detector, data, tmp_path, spoil):
    spoil(tmp_path)
    found = run_as_in_test(detector, [data])
    assert found.image == BLANK
    (fault,) = found.faults
    assert fault.startswith("the first image of ann.json cannot be run: ")
    assert "\n" not in fault


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        ([], "the config has no test_dataloader with a pipeline"),
        ([dict(type="CocoDataset", ann_file="none.json", pipeline=[])], "with a pipeline"),
        (
            [dict(type="CocoDataset", ann_file="none.json", pipeline=[dict(type="Pad"), PACK])],
            "a blank image cannot be run: ",  # Pad wants a size
        ),
    ],
    ids=["no data set", "no pipeline", "a pipeline that fails"],
)
def test_without_a_pipeline_that_runs_a_blank_square_is_run(detector, datasets, said):
    found = run_as_in_test(detector, datasets)
    assert found.image == "blank, 256 x 256 px"
    assert said in found.faults[-1]
    assert strides(found.run) == [8, 16, 32, 64, 128]


def test_an_image_that_the_detector_does_not_take(detector, data, monkeypatch):
    """As with a position embedding of a fixed size, which the pipeline does not give."""
    real = detector.extract_feat

    def picky(images):
        if images.shape[-1] != 224:
            raise AssertionError("the position embedding is of 224 pixels")
        return real(images)

    monkeypatch.setattr(detector, "extract_feat", picky)
    found = run_as_in_test(detector, [data])
    assert found.image == "blank, 224 x 224 px"
    assert [fault.partition(" cannot")[0] for fault in found.faults] == [
        "the first image of ann.json",
        "a blank image",
    ]
    assert "image of 608 x 416 pixels (AssertionError: the position" in found.faults[0]


@pytest.mark.parametrize("side", [24, 40, 65])
def test_maps_of_a_small_image_have_strides_too(data, tmp_path, side):
    """A map of one cell fits many strides."""
    cfg = detector_cfg("retinanet")
    cfg.data_preprocessor.pad_size_divisor = 1
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((side, side, 3), np.uint8))
    data["pipeline"] = [LOAD, PACK]
    found = run_as_in_test(MODELS.build(cfg), [data])
    assert strides(found.run) == [8, 16, 32, 64, 128]
    assert found.image.startswith(f"a.png of ann.json, {side} x {side} px; the network reads 256")


def test_what_is_said_reaches_the_report_and_a_warning(data, tmp_path):
    cfg = Config(
        dict(
            model=detector_cfg("retinanet"),
            train_dataloader=dict(dataset=dict(data, test_mode=False)),
            test_dataloader=dict(dataset=data),
        )
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot be run")
        add_energy_head(cfg)
    assert "\nimage          a.png of ann.json, 300 x 200 px; the" in inspect_config(cfg).report()
    no_image(tmp_path)
    with pytest.warns(UserWarning, match=r"of ann\.json cannot be run: FileNotFoundError.*blank"):
        wrapped = add_energy_head(cfg)
    assert wrapped.model.energy_head.strides == [8, 16, 32]
    report = inspect_config(cfg).report()
    assert f"\nimage          {BLANK}\n" in report
    assert f"{'':14} the first image of ann.json cannot be run" in report
