"""Models that are recorded in seconds, and images for them."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

import ebm_mmdet  # noqa: F401  registers the models
from tests.tools.tools_support import REPO

SIZE = (48, 64)
_CLASSIFY = ("conv_cls", "retina_cls", "fc_cls", "rpn_cls")
CLIMB = dict(type="GradientAscentRefiner", step_size=0.01, num_steps=1)


def small_fcos_cfg(score_thr: float = 0.0, **changes) -> dict:
    """The demo's detector with one stage and one map."""
    model = Config.fromfile(REPO / "configs" / "demo" / "shapes_ebm.py").model
    detector = model.detector
    detector.backbone.update(
        base_channels=8, stem_channels=8, num_stages=1, strides=(1,), dilations=(1,)
    )
    detector.backbone.update(out_indices=(0,), init_cfg=None)
    detector.neck.update(in_channels=[8], out_channels=16, num_outs=1)
    detector.bbox_head.update(in_channels=16, feat_channels=16, stacked_convs=1, strides=[4])
    detector.bbox_head.update(regress_ranges=((-1, 1e8),))
    detector.test_cfg.update(score_thr=score_thr, nms_pre=30, max_per_img=4)
    model.energy_head.update(in_channels=16, strides=[4], feature_levels=[0])
    model.energy_head.update(fc_channels=[16], pool_size=3, roi_shift=-0.125)
    return {**model.to_dict(), "refiner": CLIMB, **changes}


def build_separated(cfg: dict, seed: int = 0) -> torch.nn.Module:
    """Build with scores that lie apart, so that no order depends on rounding, and a steep f."""
    init_default_scope("mmdet")
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    model.init_weights()
    torch.nn.init.normal_(model.energy_head.fc_energy.weight, std=0.5)
    for name, module in model.detector.named_modules():
        if any(part in name for part in _CLASSIFY) and hasattr(module, "weight"):
            # RetinaNet's towers, of weights of 0.01, leave a ten-thousandth of what they read.
            torch.nn.init.normal_(module.weight, std=30 if "retina_cls" in name else 0.3)
    return model.eval()
