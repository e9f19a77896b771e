"""Heads of one stage: what goes to NMS in fixed shapes is what mmdet gives to its own."""

from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope

from ebm_mmdet.apis.exporting.one_stage import check_dense_head, dense_candidates
from ebm_mmdet.apis.exporting.suppression import by_scores

SIZE, STRIDES = (64, 96), (8, 16, 32)
ANCHORS = dict(
    type="AnchorGenerator", ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=STRIDES
)
POINTS = dict(type="MlvlPointGenerator", offset=0, strides=STRIDES)
BN = dict(type="BN")
HEADS = {
    "YOLOX": dict(type="YOLOXHead", feat_channels=8, stacked_convs=1, strides=STRIDES),
    "ATSS": dict(
        type="ATSSHead",
        feat_channels=32,
        stacked_convs=1,
        anchor_generator=ANCHORS,
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_stds=[0.1, 0.1, 0.2, 0.2]),
    ),
    "RTMDet": dict(
        type="RTMDetSepBNHead",
        feat_channels=8,
        stacked_convs=1,
        norm_cfg=BN,
        anchor_generator=POINTS,
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
    ),
    "softmax": dict(
        type="RetinaHead",
        feat_channels=8,
        stacked_convs=1,
        anchor_generator=ANCHORS,
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False),
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_detections_are_those_of_the_head(name):
    init_default_scope("mmdet")
    torch.manual_seed(0)
    nms = dict(type="nms", iou_threshold=0.5)
    cfg = ConfigDict(nms_pre=40, min_bbox_size=2, score_thr=0.3, nms=nms, max_per_img=30)
    channels = 32 if name == "ATSS" else 8
    head = MODELS.build(dict(HEADS[name], num_classes=3, in_channels=channels, test_cfg=cfg)).eval()
    for module in head.modules():
        if isinstance(module, torch.nn.Conv2d):  # scores that lie apart, boxes of all sizes
            torch.nn.init.normal_(module.weight, std=2 / module.weight[0].numel() ** 0.5)
    check_dense_head(head, "head")
    maps = [torch.randn(1, channels, SIZE[0] // s, SIZE[1] // s) for s in STRIDES]
    with torch.no_grad():
        (wanted,) = head.predict_by_feat(*head(maps), batch_img_metas=[dict(img_shape=SIZE)])
        found = by_scores(dense_candidates(head, maps, SIZE, cfg), 0.5, False, 200)
    exist = found.exist
    if name != "YOLOX":  # which has no limit
        exist &= torch.arange(len(exist)) < cfg.max_per_img
    assert 5 < exist.sum() < 200
    for one, other in zip(found, (wanted.bboxes, wanted.scores, wanted.labels)):
        torch.testing.assert_close(one[exist], other)
