"""Standard deviations of sides belong to the box before it is cut off at the border."""

from __future__ import annotations

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from ebm_mmdet.energy import RefinementResult
from ebm_mmdet.models import decode_boxes, side_std_to_covariance
from ebm_mmdet.models.detectors.refined_boxes import write_refined_boxes
from ebm_mmdet.models.side_uncertainty import carry_side_std

REFERENCE = torch.tensor(
    [
        [20.0, 20, 60, 70],  # inside
        [100.0, 30, 200, 90],  # half of it is outside
        [-30.0, -40, 50, 20],  # two sides are
        [159.5, 10, 220, 60],  # a sliver is left
        [170.0, 10, 220, 60],  # nothing is left
    ]
)
WIDTH, HEIGHT = 160, 128
SCALES = [(1.0, 1.0), (2.0, 0.5)]


def refined(y: Tensor, clip_boxes: bool | str, scale=(1.0, 1.0), **fields) -> InstanceData:
    """What a refinement to ``y`` leaves of detections, in pixels of the file."""
    factor = torch.tensor([*scale, *scale])
    n, ones, covariance = len(y), torch.ones(len(y)), fields.pop("covariance")
    result = RefinementResult(y, ones, ones, covariance=covariance, ess=ones, log_prob=ones)
    shape = (HEIGHT, WIDTH)
    meta = dict(img_shape=shape, scale_factor=scale)
    meta["ori_shape"] = (round(HEIGHT / scale[1]), round(WIDTH / scale[0]))
    sample = DetDataSample(metainfo=meta)
    sample.pred_instances = InstanceData(
        bboxes=REFERENCE[:n] / factor,
        scores=torch.ones(n),
        labels=torch.zeros(n, dtype=torch.long),
        **fields,
    )
    write_refined_boxes(sample, factor, REFERENCE[:n], result, clip_boxes)
    return sample.pred_instances


def moves(moved: bool) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.05 * torch.randn(len(REFERENCE), 4, generator=generator) * moved


def covariances() -> Tensor:
    """With correlations of any kind."""
    root = torch.randn(len(REFERENCE), 4, 4, generator=torch.Generator().manual_seed(1))
    return 0.03**2 * root @ root.mT


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("clip_boxes", [True, "all"])
@pytest.mark.parametrize("moved", [False, True])
def test_of_a_posterior_they_are_those_of_the_box_before_clipping(moved, clip_boxes, scale):
    y = moves(moved)
    whole = refined(y, False, scale, covariance=covariances())
    found = refined(y, clip_boxes, scale, covariance=covariances())
    same = (found.bboxes == whole.bboxes).all(1)
    assert same[0]
    assert not same.all() or (clip_boxes is True and not moved)
    torch.testing.assert_close(found.side_std, whole.side_std, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.box_cov[same], whole.box_cov[same])
    torch.testing.assert_close(found.box_std.square(), found.box_cov.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(found.box_cov, found.box_cov.mT)


@pytest.mark.parametrize("right", [50.0, 80.0, 95.0, 100.0])
def test_they_are_the_spread_of_the_samples_sides(right):
    reference = torch.tensor([[WIDTH - right, 20, WIDTH - right + 100, 120]])
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(50000, 4, generator=generator) * torch.tensor([0.02, 0.02, 0.04, 0.04])
    sample = DetDataSample(
        metainfo=dict(img_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT, WIDTH), scale_factor=(1.0, 1.0))
    )
    sample.pred_instances = InstanceData(bboxes=reference.clone())
    one, covariance = torch.ones(1), torch.cov(samples.T)[None]
    result = RefinementResult(
        torch.zeros(1, 4), one, one, covariance=covariance, ess=one, log_prob=one
    )
    write_refined_boxes(sample, torch.ones(4), reference, result, "all")
    found = sample.pred_instances
    assert found.bboxes[0, 2] == WIDTH
    expected = decode_boxes(samples, reference).std(0)
    torch.testing.assert_close(found.side_std[0], expected, rtol=0.01, atol=0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("clip_boxes", [False, True, "all"])
@pytest.mark.parametrize("moved", [False, True])
def test_the_detectors_own_stay_what_they_are(moved, clip_boxes, scale):
    """Wherever the sides go, as docs/kl_loss.md says."""
    factor = torch.tensor([*scale, *scale])
    std = torch.tensor([[4.0, 1, 1, 4], [0.5, 2, 2, 3], [1, 2, 3, 4], [2, 1, 1, 1], [3, 3, 1, 2]])
    own = side_std_to_covariance(REFERENCE / factor, std)
    found = refined(moves(moved), clip_boxes, scale, covariance=None, box_cov=own)
    torch.testing.assert_close(found.side_std, std, rtol=1e-3, atol=1e-4)


def test_boxes_of_the_same_size_keep_every_bit():
    covariance = covariances()
    assert torch.equal(carry_side_std(covariance, REFERENCE, REFERENCE), covariance)
    doubled = carry_side_std(covariance, REFERENCE, 2 * REFERENCE)
    torch.testing.assert_close(4 * doubled, covariance)
    assert carry_side_std(covariance[:0], REFERENCE[:0], REFERENCE[:0]).shape == (0, 4, 4)
