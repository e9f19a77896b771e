"""Small detectors with a head that predicts a variance per side."""

from __future__ import annotations

import torch
from mmengine.config import ConfigDict
from mmengine.hub import get_config

from tests.ebm_mmdet.models.toys import NUM_CLASSES, build, detector_cfg

FIELDS = ("side_std", "box_std", "box_cov")
DETECTORS = ["faster_rcnn", "retinanet"]


def head_cfg(cfg):
    return cfg.roi_head.bbox_head if "roi_head" in cfg else cfg.bbox_head


def kl_cfg(name="faster_rcnn", **overrides):
    cfg = detector_cfg(name)
    head = head_cfg(cfg)
    head.type = "KLBBoxHead" if name == "faster_rcnn" else "KLRetinaHead"
    head.bbox_coder = dict(type="DeltaXYXYBBoxCoder")
    head.loss_bbox = dict(type="KLLoss")
    head.update(overrides)
    return cfg


def head_of(model):
    return model.roi_head.bbox_head if hasattr(model, "roi_head") else model.bbox_head


def inference_cfg(model):
    return model.roi_head.test_cfg if hasattr(model, "roi_head") else model.bbox_head.test_cfg


def alpha_layer(model):
    head = head_of(model)
    return head.fc_alpha if hasattr(head, "fc_alpha") else head.retina_alpha


def build_kl(name="faster_rcnn", **overrides):
    """A detector with α and scores that differ between boxes."""
    model = build(kl_cfg(name, **overrides))
    torch.nn.init.normal_(alpha_layer(model).weight, std=0.3)
    if name == "retinanet":
        torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.3)
    return model


@torch.no_grad()
def predict(model, data, rescale=True):
    samples = model.predict(data["inputs"], data["data_samples"], rescale=rescale)
    return [sample.pred_instances for sample in samples]


def build_mask_rcnn(cfg_only=False):
    cfg = get_config("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py").model
    plain = kl_cfg()
    for part in ("backbone", "neck", "rpn_head"):
        cfg[part] = plain[part]
    cfg.roi_head.bbox_roi_extractor.out_channels = 16
    cfg.roi_head.mask_roi_extractor.out_channels = 16
    cfg.roi_head.bbox_head = plain.roi_head.bbox_head
    cfg.roi_head.mask_head.update(
        num_convs=1, in_channels=16, conv_out_channels=16, num_classes=NUM_CLASSES
    )
    cfg.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5, var_vote={})
    cfg = ConfigDict(cfg.to_dict())
    return cfg if cfg_only else build(cfg)
