"""What is found about a detector from its config alone."""

from __future__ import annotations

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from ebm_mmdet.apis.energy_config import add_energy_head
from ebm_mmdet.apis.inspection import inspect_config, roi_shift_of
from ebm_mmdet.apis.map_choice import bins_for, finer_modules
from ebm_mmdet.models.detectors.dry_run import dry_run
from tests.ebm_mmdet.models.toys import detector_cfg


def inspected(path: str, **model):
    cfg = get_config(f"mmdet::{path}")
    cfg.merge_from_dict({"model": model})
    return inspect_config(cfg)


def test_a_two_stage_detector():
    cfg = get_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    cfg.model = detector_cfg("faster_rcnn")
    found = inspect_config(cfg)
    levels = dict(feature_levels=[0, 1, 2, 3], strides=[4, 8, 16, 32], in_channels=16)
    assert found.levels == dict(levels, finest_scale=56)
    assert (found.feature_source, found.order) == ("neck", "fine to coarse")
    assert (found.num_classes, found.trunk, found.roi_shift) == (3, (32, 32), -0.5)
    assert found.image_scale == (1333, 800)
    assert [row.why for row in found.rows if row.module == "neck"][-1] == "coarser than 32 px"
    text = found.report()
    assert " ".join(text.splitlines()[1].split()) == "neck 0 16 4 used level 0 of the head"
    pasted = eval(f"dict({''.join(text.rpartition('fit:')[2].split())})")
    assert pasted == dict(found.levels, num_classes=3, roi_shift=-0.5)
    # Of our own config, the detector inside is looked at.
    wrapped = Config(dict(model=dict(type="EBMDetector", detector=cfg.model)))
    assert inspect_config(wrapped).levels == found.levels


def test_small_objects_of_a_two_stage_detector_want_finer_maps_than_its_box_head_reads():
    cfg = get_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    cfg.model = detector_cfg("faster_rcnn")
    cfg.model.neck.update(start_level=1, num_outs=4)
    for size, said in ((None, "below 32 px"), (32, "32 px, 4.0 cells of stride 8: 4 are enough")):
        found = inspect_config(cfg, size)
        assert said in found.objects
        assert (found.trunk, found.levels["strides"]) == ((32, 32), [8, 16, 32])
    assert "by a fresh trunk (--object-size)" in inspect_config(cfg).objects
    found = inspect_config(cfg, 31)
    assert found.trunk is None
    assert "the box head reads no finer maps" in found.trunk_source
    assert found.feature_source == ["neck", "backbone.layer1"]
    assert found.levels["strides"] == [4, 8]
    assert found.levels["level_rule"] == "concat"
    assert found.roi_shift != -0.5  # not that of the box head
    # Where there are none, the head stays that of the papers.
    cfg.model.neck.update(start_level=0)
    found = inspect_config(cfg, 8)
    assert found.trunk == (32, 32)
    assert "fewer than 4, but the backbone has no finer map" in found.objects
    assert inspect_config(cfg).objects.endswith("stride 4: below 16 px it is too coarse")


def test_a_detector_whose_train_returns_nothing(monkeypatch):
    """As that of mmdet's detectors with a teacher (LAD), so that eval() returns nothing too."""
    cfg = get_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    cfg.model = detector_cfg("faster_rcnn")
    kind, real = MODELS.get("FasterRCNN"), MODELS.get("FasterRCNN").train
    monkeypatch.setattr(kind, "train", lambda self, mode=True: real(self, mode) and None)
    assert inspect_config(cfg).levels["strides"] == [4, 8, 16, 32]


def test_maps_given_coarse_first_and_no_box_head():
    found = inspected("yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py")
    assert found.order == "coarse to fine"
    assert found.levels["feature_levels"] == [2, 1, 0]
    assert found.trunk is None
    assert found.num_classes == 80
    assert "level 0 of the head" in next(row.why for row in found.rows if row.index == 2)
    finer = [row for row in found.rows if row.why.startswith("finer")]
    assert {row.map.stride for row in finer} <= {2, 4}
    assert finer


@pytest.mark.parametrize(
    ("size", "source", "strides", "said"),
    [
        (None, "neck", [8, 16, 32], "below 32 px, 4 cells of stride 8, finer maps are read"),
        (32, "neck", [8, 16, 32], "32 px, 4.0 cells of stride 8: 4 are enough"),
        # Eight cells, and no more: stride 4 gives 7.75 to 31 px, stride 2 gives them 15.5.
        (31, ["neck", "backbone.stage1", "backbone.stem"], [2, 4, 8], "fewer than 4, so finer"),
        (12, ["neck", "backbone.stage1", "backbone.stem"], [2, 4, 8], "12 px, 1.5 cells of"),
    ],
)
def test_small_objects_are_read_on_finer_maps(size, source, strides, said):
    found = inspect_config(get_config("mmdet::yolox/yolox_nano_8xb8-300e_coco.py"), size)
    assert (found.feature_source, found.levels["strides"]) == (source, strides)
    assert said in found.report()
    if size == 31:  # levels of the head, in its order, in the table
        levels = {row.map.stride: row.why for row in found.rows if row.chosen}
        assert [levels[s].split(" of")[0] for s in strides] == ["level 0", "level 1", "level 2"]
        assert found.levels["feature_levels"] == [4, 3, 0]  # stem, stage1, finest of the neck
        assert found.levels["in_channels"] == [16, 32, 64]
        assert found.levels["pool_size"] == [20, 10, 5]  # 1.3 x 31 px: 20.2, 10.1 and 5 cells
        assert "    pool_size=[20, 10, 5]," in found.report()


def test_a_finer_map_that_gives_enough_cells_is_the_last():
    """With a source of stride 16, objects of 40 px have 5 cells at stride 8 and 10 at stride 4."""
    cfg = get_config("mmdet::yolox/yolox_nano_8xb8-300e_coco.py")
    run = dry_run(MODELS.build(cfg.model))
    assert finer_modules(run, "neck", 40, [16]) == ["backbone.stage2", "backbone.stage1"]
    assert finer_modules(run, "neck", 64, [16]) == []


def test_equal_strides_and_a_detector_without_a_neck():
    hourglass = dict(type="HourglassNet", stage_channels=[8, 8], downsample_times=1)
    backbone = dict(hourglass, num_stacks=2, stage_blocks=[1, 1], feat_channel=8, _delete_=True)
    found = inspected(
        "cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py", backbone=backbone
    )
    assert found.feature_source == "backbone"
    assert [row.chosen for row in found.rows[:2]] == [False, True]
    assert found.rows[0].why == "map 1 has the same stride and comes later"


def test_a_tracker_is_refused_before_it_is_built():
    """Trackers want packages that need not be there; their class is enough to tell."""
    cfg = Config(dict(model=dict(type="ByteTrack", detector=dict(type="YOLOX"), tracker=dict())))
    with pytest.raises(ValueError, match=r"ByteTrack tracks objects in videos; refine a detector"):
        inspect_config(cfg)


@pytest.mark.parametrize("cfg", [{}, {"model": {}}, {"model": {"backbone": {}}}])
def test_a_config_without_a_model(cfg):
    with pytest.raises(ValueError, match="has no model"):
        inspect_config(Config(cfg))


PATCHES = dict(
    type="SwinTransformer",
    embed_dims=8,
    depths=(1, 1, 1, 1),
    num_heads=(1, 1, 1, 1),
    window_size=7,
    out_indices=(0, 1, 2, 3),
)


@pytest.mark.parametrize(
    ("backbone", "offset"),
    [
        (None, 0.0),  # ResNet: strided 3 x 3 and 7 x 7, centred on their first pixel
        (PATCHES, 1.5),  # patches of 4 x 4, merged by two: their middle
    ],
)
def test_where_a_cell_lies(backbone, offset):
    init_default_scope("mmdet")
    cfg = detector_cfg("retinanet")
    if backbone:
        cfg.backbone = backbone
        cfg.neck.in_channels = [8, 16, 32, 64]
    run = dry_run(MODELS.build(cfg))
    shift, said = roi_shift_of(run, [4])
    assert shift == pytest.approx(-(offset + 0.5) / 4, abs=1e-3)
    assert said == f"cells i are centred on pixels 4 i + {offset:g}"
    if backbone:  # merging patches keeps the middle: 8 i + 3.5, and so on
        assert roi_shift_of(run, [4, 8, 16])[0] == -0.5
    else:
        assert roi_shift_of(run, [4, 8, 16])[0] == [-0.125, -0.0625, -0.0312]


def test_each_map_has_the_shift_of_its_own_stride():
    """roi_shift = -(o + 1/2) / stride, with o = 1/2 behind the slices of YOLOX."""
    cfg = get_config("mmdet::yolox/yolox_nano_8xb8-300e_coco.py")
    assert inspect_config(cfg, 20).levels["strides"] == [2, 4, 8]
    assert inspect_config(cfg, 20).roi_shift == [-0.5, -0.25, -0.125]


@pytest.mark.parametrize(
    ("size", "source", "strides", "said"),
    [
        (32, "neck", [4, 8, 16], "32 px, 8.0 cells of stride 4: 8 are enough"),
        (31, ["neck", "backbone.stage1"], [2, 4, 8], "fewer than 8, so finer maps"),
    ],
)
def test_maps_of_an_enlarged_image(size, source, strides, said):
    cfg = get_config("mmdet::yolox/yolox_nano_8xb8-300e_coco.py")
    found = inspect_config(cfg, size, enlarge=2)
    assert (found.feature_source, found.levels["strides"]) == (source, strides)
    assert said in found.objects
    # In cells it is the shift of the strides in the image that the network sees.
    assert found.roi_shift == pytest.approx([-0.5 / stride for stride in strides], abs=1e-4)
    assert "of the enlarged image" in found.roi_shift_reason
    text = found.report()
    pasted = eval(f"dict({''.join(text.rpartition('fit:')[2].split())})")
    assert pasted["strides"] == strides
    assert "enlarge=2" in text
    head = add_energy_head(_with_data(cfg), object_size=size, enlarge=2).model
    assert head.enlarge == 2
    assert MODELS.build(head).energy_head.strides == tuple(strides)


def test_a_trunk_reads_the_enlarged_image_as_its_box_head_would():
    cfg = get_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    cfg.model = detector_cfg("faster_rcnn")
    found = inspect_config(cfg, 64, enlarge=2)
    assert (found.trunk, found.roi_shift, found.levels["finest_scale"]) == ((32, 32), -0.5, 28)
    with pytest.raises(ValueError, match=r"enlarge=1\.5; give a whole number"):
        inspect_config(cfg, enlarge=1.5)


def _with_data(cfg: Config) -> Config:
    """Without mosaics, which want files."""
    data = dict(type="CocoDataset", ann_file="a.json", pipeline=[dict(type="PackDetInputs")])
    cfg.train_dataloader.dataset = data
    return cfg


def test_a_detector_of_one_channel():
    cfg = get_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    cfg.model = detector_cfg("faster_rcnn")
    cfg.model.backbone.in_channels = 1
    cfg.model.data_preprocessor = dict(type="DetDataPreprocessor", mean=[120.0], std=[60.0])
    assert inspect_config(cfg).levels["strides"] == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("size", "strides", "bins"),
    [
        (35, [4, 8, 16], [11, 6, 3]),
        (31, [2, 4, 8], [20, 10, 5]),
        (1000, [4, 8], [20, 20]),  # no more cost than that
        (20, [8, 16, 32], [7, 3, 3]),  # the finest tells where a side is
        (100, [32], [7]),
    ],
)
def test_a_bin_for_each_cell_of_a_usual_object(size, strides, bins):
    """bins = 1.3 size / stride, rounded, within bounds."""
    assert bins_for(size, strides) == bins


def test_a_trunk_from_a_box_head_keeps_its_bins():
    cfg = get_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    cfg.model = detector_cfg("faster_rcnn")
    assert "pool_size" not in inspect_config(cfg, 100).levels


@pytest.mark.parametrize("size", [None, 12, 90])
@pytest.mark.parametrize(
    "path", ["retinanet/retinanet_r50_fpn_1x_coco.py", "yolox/yolox_nano_8xb8-300e_coco.py"]
)
def test_the_lines_of_the_report_make_a_head(path, size):
    text = inspect_config(get_config(f"mmdet::{path}"), size).report()
    settings = eval(f"dict({''.join(text.rpartition('fit:')[2].split())})")
    noise = dict(type="GaussianMixtureNoise", sigmas=[0.1], dim=4)
    head = MODELS.build(
        dict(type="EBMBBoxHead", objective=dict(type="NCEObjective", noise=noise), **settings)
    )
    assert list(head.pool_sizes) == settings.get("pool_size", [7] * len(head.strides))
