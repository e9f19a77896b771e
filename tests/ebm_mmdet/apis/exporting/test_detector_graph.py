"""The fixed shapes of a whole detector hold what `predict` gives, and what has none says so."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.hub import get_config

from ebm_mmdet.apis.exporting import (
    Comparison,
    DetectorGraph,
    RefinementGraph,
    largest_differences,
    left_out,
)
from ebm_mmdet.energy.host_reads import without_reads
from tests.ebm_mmdet.apis.exporting.small_models import CLIMB, SIZE, build_separated, small_fcos_cfg
from tests.ebm_mmdet.models.toys import ebm_cfg

PRIOR = dict(std=[0.05, 0.05, 0.1, 0.1], bias=[0.01, 0, 0, 0.02])
GUIDED = dict(type="EnergyGuidedNMS", score_thr=0.05, iou_threshold=0.5, max_per_img=10)


def faster_rcnn_cfg(**changes) -> dict:
    cfg = ebm_cfg("faster_rcnn", refiner=CLIMB, **changes)
    cfg["detector"].test_cfg.rpn.update(nms_pre=20, max_per_img=30)
    return cfg


def retinanet_cfg() -> dict:
    cfg = ebm_cfg("retinanet", refiner=CLIMB)
    cfg["detector"].test_cfg.nms_pre = 80
    return cfg


def enlarged_fcos_cfg() -> dict:
    cfg = small_fcos_cfg(enlarge=2)
    cfg["energy_head"]["strides"] = [2]
    return cfg


CASES = {
    "FCOS": lambda: small_fcos_cfg(),
    "FCOS, longer steps above a score": lambda: small_fcos_cfg(
        refiner=dict(CLIMB, num_steps=4, acceleration="bb"), min_score=0.4
    ),
    "FCOS, prior": lambda: small_fcos_cfg(
        refiner=dict(type="GradientAscentRefiner", prior=PRIOR, num_steps=2)
    ),
    "FCOS, several starts": lambda: small_fcos_cfg(
        refiner=dict(CLIMB, num_starts=3, start_std=0.1)
    ),
    "FCOS, mean": lambda: small_fcos_cfg(refiner=dict(type="ImportanceMeanRefiner", prior=PRIOR)),
    "FCOS, no refiner": lambda: small_fcos_cfg(refiner=None),
    "FCOS, enlarged": enlarged_fcos_cfg,
    "RetinaNet": retinanet_cfg,
    "Faster R-CNN": faster_rcnn_cfg,
    "Faster R-CNN, NMS by energy": lambda: faster_rcnn_cfg(candidates=GUIDED),
}


@pytest.mark.parametrize("name", CASES)
def test_graph_equals_predict(name):
    model = build_separated(CASES[name]())
    graph = DetectorGraph(model, (96, 128), candidates=400).eval()
    (image,) = graph.example(1)
    wanted = graph.predicted(image)
    with without_reads():
        found = graph(image)
    assert 3 < wanted[4] <= graph.count
    apart = largest_differences(graph.output_names, found, wanted)
    assert len(found) == len(graph.output_names)
    assert max(apart.values()) <= 1e-3, apart


def test_input_of_another_size_than_the_stride_is_padded():
    cfg = small_fcos_cfg()
    cfg["detector"]["data_preprocessor"]["bgr_to_rgb"] = True
    graph = DetectorGraph(build_separated(cfg), (41, 59)).eval()
    (image,) = graph.example(2)
    apart = largest_differences(graph.output_names, graph(image), graph.predicted(image))
    assert max(apart.values()) <= 1e-3, apart


def changed(path: str, value, cfg: dict | None = None) -> dict:
    """The config of a model with one more value, such as ``detector.test_cfg.nms.type``."""
    cfg = Config(cfg or small_fcos_cfg())
    cfg.merge_from_dict({path: value})
    return cfg.to_dict()


def yolox_cfg() -> dict:
    """A head that reads no limit, below one in the config of another."""
    head = dict(type="YOLOXHead", num_classes=3, in_channels=16, feat_channels=16, strides=[4])
    return changed("detector.bbox_head", dict(head, _delete_=True, stacked_convs=1))


NO_LIMIT = {
    "YOLOX": yolox_cfg,
    "FCOS, all but the last in mmdet": lambda: changed("detector.test_cfg.max_per_img", -1),
    "FCOS, all": lambda: changed("detector.test_cfg.max_per_img", None),
    "Faster R-CNN": lambda: changed("detector.test_cfg.rcnn.max_per_img", -1, faster_rcnn_cfg()),
    "Faster R-CNN, NMS by energy": lambda: faster_rcnn_cfg(candidates=dict(GUIDED, max_per_img=-1)),
}


@pytest.mark.parametrize("name", NO_LIMIT)
def test_no_limit_is_a_hundred_rows_or_what_is_asked_for(name):
    model = build_separated(NO_LIMIT[name]())
    every = DetectorGraph(model, (96, 128), count=60).eval()
    assert every.limit is None
    (image,) = every.example(1)
    wanted = every.predicted(image)
    few = DetectorGraph(model, (96, 128), count=3).eval()
    for graph in (every, few):
        compared = Comparison(graph.output_names)
        compared.add(graph(image), graph.predicted(image))
        number = compared.worst.pop("number")
        assert max(compared.worst.values()) <= 1e-3, compared.worst
        beyond = int(wanted[4]) - graph.count
        assert len(compared.beyond[0]) == max(beyond, 0)
        # mmdet's slice [:-1]; no limit leaves nothing out.
        assert number == compared.added <= ("last" in name or "energy" in name)
        assert compared.missing == 0
        assert len(compared.moved) == min(graph.count, int(wanted[4])) > 2
    assert beyond > 0
    assert DetectorGraph(model, SIZE).count == (4 if name == "YOLOX" else 100)


def test_proposals_without_a_limit_are_all_kept():
    """mmdet leaves out the worst of them at -1, here far below those that count."""
    wanted, found = (
        DetectorGraph(
            build_separated(changed("detector.test_cfg.rpn.max_per_img", most, faster_rcnn_cfg())),
            SIZE,
        )
        for most in (1000, -1)
    )
    (image,) = found.example(1)
    apart = largest_differences(found.output_names, found(image), wanted(image))
    assert int(found(image)[4]) > 3
    assert max(apart.values()) == 0, apart


def test_rows_are_no_more_than_candidates():
    model = build_separated(changed("detector.test_cfg.max_per_img", 3000))
    graph = DetectorGraph(model, SIZE)
    assert (graph.limit, graph.places, graph.count) == (3000, 1000, 1000)
    graph = DetectorGraph(model, SIZE, count=1500)
    assert (graph.places, graph.count) == (1500, 1500)
    with pytest.raises(ValueError, match=r"count of boxes is 50, but there are 40 candidates"):
        DetectorGraph(model, SIZE, count=50, candidates=40)
    for name in ("count", "candidates"):
        with pytest.raises(ValueError, match=f"{name} of boxes is -1; give a number of 1 or more"):
            DetectorGraph(model, SIZE, **{name: -1})


REFUSED = {
    "model.refiner is ProposalRefiner": lambda: small_fcos_cfg(
        refiner=dict(type="ProposalRefiner", num_samples=8)
    ),
    "model.refiner.prior.std is 'per_box'": lambda: small_fcos_cfg(
        refiner=dict(type="GradientAscentRefiner", prior=dict(std="per_box"))
    ),
    "model.detector.test_cfg.nms.type is 'soft_nms'": lambda: changed(
        "detector.test_cfg.nms.type", "soft_nms"
    ),
    "model.detector.bbox_head is GFLHead, whose _predict_by_feat_single": lambda: changed(
        "detector.bbox_head",
        dict(
            _delete_=True,
            type="GFLHead",
            num_classes=3,
            in_channels=16,
            anchor_generator=dict(
                type="AnchorGenerator",
                ratios=[1.0],
                octave_base_scale=8,
                scales_per_octave=1,
                strides=[4],
            ),
        ),
    ),
    "model.detector.backbone.layer1.0.conv2 is DeformConv2dPack of mmcv.ops": lambda: changed(
        "detector.backbone",
        dict(depth=50, dcn=dict(type="DCN", deform_groups=1), stage_with_dcn=(True,)),
    ),
    "model.detector.roi_head.bbox_head is KLBBoxHead": lambda: changed(
        "detector.roi_head.bbox_head",
        dict(type="KLBBoxHead", bbox_coder=dict(type="DeltaXYXYBBoxCoder")),
        faster_rcnn_cfg(),
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_exported_is_named(message):
    model = build_separated(REFUSED[message]())
    with pytest.raises(ValueError, match=message):
        DetectorGraph(model, SIZE)


def test_a_plain_detector_is_refused():
    model = build_separated(small_fcos_cfg())
    with pytest.raises(ValueError, match="FCOS is no EBMDetector"):
        DetectorGraph(model.detector, SIZE)
    model.refiner = None
    with pytest.raises(ValueError, match="nothing to export"):
        RefinementGraph(model)


def test_parts_that_are_left_out_are_listed():
    starts = dict(CLIMB, num_starts=2, start_std=0.1, num_modes=2)
    model = build_separated(small_fcos_cfg(refiner=starts))
    assert left_out(model) == ["further modes"]
    model = build_separated(small_fcos_cfg(flips=["vertical"]))
    assert left_out(model) == ["the mean over mirror images (flips)"]
    with pytest.raises(ValueError, match=r"model\.flips is \('vertical',\).*model\.flips=\[\]"):
        DetectorGraph(model, SIZE)
    with pytest.raises(ValueError, match=r"model\.flips is \['vertical'\].*model\.flips=\[\]"):
        RefinementGraph(model)
    cfg = faster_rcnn_cfg()
    masks = get_config("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py").model.roi_head
    extractor, head = masks.mask_roi_extractor, masks.mask_head
    extractor.out_channels = head.in_channels = head.conv_out_channels = 16
    head.update(num_convs=1, num_classes=3)
    cfg["detector"].roi_head.update(mask_roi_extractor=extractor, mask_head=head)
    model = build_separated(cfg)
    assert left_out(model) == ["masks"]
    DetectorGraph(model, SIZE)  # is not refused for the RoIAlign of the masks
