"""KLRetinaHead: what it does otherwise than the head of two stages."""

from __future__ import annotations

import pytest
import torch
from mmengine.structures import InstanceData

from tests.ebm_mmdet.models.kl_toys import build_kl, inference_cfg, kl_cfg
from tests.ebm_mmdet.models.toys import build


def test_initial_values_of_retinanet():
    head = build(kl_cfg("retinanet")).bbox_head
    assert head.retina_alpha.weight.std().item() == pytest.approx(1e-4, rel=0.1)
    assert head.retina_reg.weight.std().item() == pytest.approx(1e-2, rel=0.1)
    assert head.retina_cls.bias.mean() < -4
    assert not head.retina_alpha.bias.any()


def test_anchors_do_not_move_under_autocast():
    """Anchors beyond 256 px are no bfloat16 numbers: they were off by up to 4 px."""
    head = build_kl("retinanet").bbox_head
    maps = [torch.randn(1, 16, 2 ** (6 - i), 2 ** (6 - i)) for i in range(5)]
    meta = dict(img_shape=(512, 512), scale_factor=(1.0, 1.0))
    with torch.no_grad():
        outputs = head(maps)
        exact, rounded = (
            head.predict_by_feat(
                *([level.to(dtype) for level in part] for part in outputs),
                batch_img_metas=[meta],
                cfg=dict(nms_pre=-1, score_thr=0.0, min_bbox_size=-1),
                with_nms=False,
            )[0]
            for dtype in (torch.float32, torch.bfloat16)
        )
    # Sorted, because the order is that of the scores, which the types round differently.
    centres = [
        (found.bboxes[:, :2] + found.bboxes[:, 2:]).div(2).sort(0).values
        for found in (exact, rounded)
    ]
    assert len(exact) == len(rounded) > 1000
    assert (centres[0] - centres[1]).abs().max() < 1.0


def test_retinanet_without_nms_returns_candidates():
    head = build_kl("retinanet").bbox_head
    maps = [torch.randn(1, 16, 2 ** (5 - i), 2 ** (5 - i)) for i in range(5)]
    meta = dict(img_shape=(256, 256), scale_factor=(1.0, 1.0))
    with torch.no_grad():
        (found,) = head.predict_by_feat(*head(maps), batch_img_metas=[meta], with_nms=False)
    assert isinstance(found, InstanceData)
    assert len(found) > inference_cfg(build_kl("retinanet")).max_per_img
    assert (found.scores.diff() <= 0).all()
