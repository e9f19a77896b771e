"""Levels and priors of ROCK's SSD: sizes, number, and the formula of the priors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from tests.ebm_mmdet.models.rock.rock_toys import SIZE, batch, build, ssd_cfg

KIND = "FractionSSDAnchorGenerator"
SIZES = [(30, 40), (15, 20), (8, 10), (4, 5), (2, 3), (1, 1)]


def generator(**kwargs):
    return TASK_UTILS.build(dict(type=KIND, **kwargs))


def meta_model(block: dict | None = None):
    init_default_scope("mmdet")
    cfg = Config.fromfile("configs/rock/_base_/ssd_r50_nyuv2_model.py").model
    if block:
        cfg = dict(type="ROCKDetector", detector=cfg, block=block)
    with torch.device("meta"):
        return MODELS.build(cfg)


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_full_model_has_the_papers_levels_and_size():
    plain, rock = meta_model(), meta_model(dict(type="ROCKBlock"))
    assert parameters(plain) / 1e6 == pytest.approx(41.9, abs=0.05)
    assert parameters(rock) / 1e6 == pytest.approx(49.3, abs=0.05)
    maps = rock.eval().extract_feat(torch.empty(1, 3, 480, 640, device="meta"))
    channels = [2048, 1024, 512, 256, 256, 256]
    assert [tuple(each.shape) for each in maps] == [
        (1, c, *size) for c, size in zip(channels, SIZES)
    ]
    outs = rock.detector.bbox_head(maps)
    assert sum(each.shape[1] * each[0, 0].numel() for each in outs[1]) == 4 * 7228


def test_small_images_get_small_levels_of_the_same_weights():
    """Whatever the size: one level after the other, and none is empty."""
    cfg = ssd_cfg().neck
    neck = MODELS.build({**cfg, "input_size": (96, 128)}).eval()
    maps = neck((torch.rand(2, 32, 6, 8),))
    sizes = [(6, 8), (3, 4), (2, 2), (1, 1), (1, 1), (1, 1)]
    assert [tuple(each.shape[-2:]) for each in maps] == sizes
    big = MODELS.build({**cfg, "input_size": (480, 640)}).eval()
    assert [level[1][0].kernel_size for level in big.levels] == [(3, 3)] * 4 + [(2, 3)]
    assert [tuple(each.shape[-2:]) for each in big((torch.rand(1, 32, 30, 40),))] == SIZES
    assert [tuple(each.shape[-2:]) for each in big((torch.rand(1, 32, 6, 8),))] == sizes
    assert big((torch.rand(1, 32, 60, 80),))[-1].shape[-2:] == (5, 6)


def test_a_map_smaller_than_a_kernel_is_surrounded_by_zeros():
    neck = MODELS.build({**ssd_cfg().neck, "input_size": (480, 640)}).eval()
    *_, x, found = neck((torch.rand(1, 32, 6, 8),))
    reduce, (conv, norm, _) = neck.levels[-1]
    assert conv.kernel_size == (2, 3)
    assert x.shape[-2:] == (1, 1)
    # One cell, in the middle of three columns: only that column of the kernel's first row matters.
    only = torch.nn.functional.conv2d(reduce(x), conv.weight[:, :, :1, 1:2], conv.bias)
    torch.testing.assert_close(found, norm(only).relu())


def test_one_image_in_training_is_refused_by_name():
    neck = MODELS.build(ssd_cfg().neck).train()
    with pytest.raises(ValueError, match=r"single cell.*at least two images"):
        neck((torch.rand(1, 32, 4, 6),))


def test_widths_of_another_number_of_levels_are_refused():
    with pytest.raises(ValueError, match=r"mid_channels=\(8, 8\)"):
        MODELS.build({**ssd_cfg().neck, "mid_channels": (8, 8)})


def literal_priors(height: int, width: int, sizes, scales, ratios) -> torch.Tensor:
    """(cx, cy, w, h) in fractions, as in the paper's formula, one after the other."""
    rows = []
    for k, (h, w) in enumerate(sizes):
        for i in range(h):
            for j in range(w):
                cx = (j + 0.5) * (width // w) / width
                cy = (i + 0.5) * (height // h) / height
                s, following = scales[k], scales[k + 1]
                sides = [(s, s), (math.sqrt(s * following),) * 2]
                for a in ratios[k]:
                    sides.append((s * math.sqrt(a), s / math.sqrt(a)))
                    sides.append((s / math.sqrt(a), s * math.sqrt(a)))
                rows += [(cx, cy, min(1.0, one), min(1.0, two)) for one, two in sides]
    return torch.tensor(rows, dtype=torch.float64)


SCALES = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]


@pytest.mark.parametrize(
    ("image", "sizes"),
    [
        ((480, 640), SIZES),
        ((96, 128), [(6, 8), (3, 4), (2, 2), (1, 1), (1, 1), (1, 1)]),
        ((100, 130), [(7, 9), (4, 5), (2, 3), (1, 2), (1, 1), (1, 1)]),
    ],
)
def test_priors_equal_the_formula(image, sizes):
    """(cx, cy, w, h) = ((j + .5) step / W, (i + .5) step / H, fractions), to 1e-6 of the side."""
    priors = torch.cat(generator().grid_priors(sizes, input_size=image)).double()
    expected = literal_priors(*image, sizes, SCALES, RATIOS)
    if image == (480, 640):
        assert len(priors) == 7228
        torch.testing.assert_close(torch.cat(generator().grid_priors(sizes)).double(), priors)
        # 213 pixels for a third of 640: the centres of level 4 are those of the reference.
        assert expected[7200, :2].tolist() == [106.5 / 640, 120 / 480]
    whole = torch.tensor([image[1], image[0]], dtype=torch.float64)
    low, high = priors[:, :2] / whole, priors[:, 2:] / whole
    found = torch.cat([(low + high) / 2, high - low], dim=1)
    assert (found - expected).abs().max() < 1e-6


@settings(max_examples=25, deadline=None)
@given(height=st.integers(16, 700), width=st.integers(16, 700))
def test_centres_are_inside_the_image_and_priors_no_larger_than_it(height, width):
    sizes = [(-(-height // 16), -(-width // 16)), (2, 1), (1, 1), (1, 1), (1, 1), (1, 1)]
    priors = torch.cat(generator().grid_priors(sizes, input_size=(height, width)))
    centres = (priors[:, :2] + priors[:, 2:]) / 2
    whole = torch.tensor([float(width), float(height)])
    assert ((centres > 0) & (centres < whole)).all()
    assert (priors[:, 2:] - priors[:, :2] <= whole * (1 + 1e-6)).all()


def test_priors_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ValueError, match="7 scales for 5 levels"):
        generator(ratios=RATIOS[:5])
    with pytest.raises(ValueError, match="2 maps for the priors of 6 levels"):
        generator().grid_priors([(3, 4), (1, 1)])
    cfg = dict(type=KIND, scales=SCALES[:6], ratios=RATIOS[:5])
    head = ssd_cfg(anchor_generator=cfg).bbox_head
    with pytest.raises(ValueError, match="6 levels in in_channels"):
        MODELS.build(head)


def test_mmdets_own_head_takes_the_priors():
    """Its losses see those priors whose centres are in the image."""
    flags = torch.cat(generator().valid_flags(SIZES, (480, 320)))
    priors = torch.cat(generator().grid_priors(SIZES))
    assert torch.equal(flags, (priors[:, 0] + priors[:, 2]) / 2 < 320)
    cfg = ssd_cfg()
    coder = dict(type="DeltaXYWHBBoxCoder", target_stds=[0.1, 0.1, 0.2, 0.2])
    cfg.bbox_head.update(
        type="SSDHead", anchor_generator=dict(type=KIND, input_size=SIZE), bbox_coder=coder
    )
    cfg.train_cfg.update(allowed_border=-1, pos_weight=-1, neg_pos_ratio=3)
    model = build(cfg)
    data = batch(model, training=True)
    losses = model.loss(data["inputs"], data["data_samples"])
    assert sum(losses["loss_cls"]) > 0
