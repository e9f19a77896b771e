"""Detections of heads that predict a variance for each side: NMS, then variance voting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from mmcv.ops import batched_nms
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor

from ..side_uncertainty import side_std_to_covariance
from ..uncertain_instances import UncertainInstances

__all__ = ["check_var_vote", "select_detections", "variance_vote"]

_NEVER = -1e4
"""Log of a decay to zero; finite, so that its product with 0 is 0."""


def variance_vote(
    boxes: Tensor,
    log_variance: Tensor,
    groups: Tensor,
    picks: Tensor,
    sigma_t: float = 0.02,
    iou_thr: float = 0.0,
    remaining: tuple[Tensor, Mapping] | None = None,
) -> Tensor:
    r"""Move each picked box to the mean of its neighbours, weighted by inverse variances.

    For a pick m and each side e, over the boxes i of its group with IoU(m, i) > ``iou_thr`` and m
    itself:

        p_i = exp(-(1 - IoU(m, i))^2 / sigma_t)
        m'_e = Σ_i p_i b_ie / σ²_ie  /  Σ_i p_i / σ²_ie

    Scores are not used. All picks of all classes and images are one computation, whose memory is
    K x (boxes in the largest group). It is a softmax over i, so no variance is too small or large.
    A candidate with a number that is not finite has no vote, and stays where it is if picked.

    Args:
        boxes: (N, 4) ``(x1, y1, x2, y2)``, candidates before suppression.
        log_variance: (N, 4) log σ² of the same sides. Only ratios matter.
        groups: (N,) int64; only boxes of one group (a class of an image) vote on each other.
        picks: (K,) int64, rows of ``boxes`` that suppression kept, in its order.
        sigma_t: how fast the weight of a vote decays as the overlap decreases.
        iou_thr: boxes with an IoU above this vote.
        remaining: None lets every candidate vote (the paper). ``(scores (N,), nms)``, the scores
            before NMS and its config, lets only those vote that NMS had neither picked nor
            removed before m (the released code).

    Returns:
        (K, 4) moved boxes ``(x1, y1, x2, y2)``, float32 or better.

    Source: He et al., CVPR 2019 (arXiv:1809.08545), algorithm 1.
    """
    if len(picks) == 0:
        return boxes.new_zeros(0, 4)
    members, valid = _members(groups, picks)
    # Rows of others fill up each group, and a weight of 0 does not stop their NaN.
    sound = (boxes.isfinite() & log_variance.isfinite()).all(1)
    inert = ~sound.unsqueeze(1)
    usable, log_variance = boxes.masked_fill(inert, 0), log_variance.masked_fill(inert, 0)
    picked, others = usable[picks].unsqueeze(1), usable[members]
    iou = bbox_overlaps(picked, others).squeeze(1).nan_to_num(0)  # an area may overflow
    voters = valid & sound[members] & sound[picks].unsqueeze(1) & (iou > iou_thr)
    if remaining is not None:
        voters &= _remaining(iou, members, groups, picks, *remaining)
    itself = valid & (members == picks.unsqueeze(1))
    closeness = -(1 - iou).square() / sigma_t
    # A box without area has IoU 0 with itself.
    closeness = closeness.masked_fill(~voters, -math.inf).masked_fill(itself, 0)
    weights = (closeness.unsqueeze(2) - log_variance[members]).softmax(dim=1)
    shifts = (others - picked).masked_fill(~(voters | itself).unsqueeze(2), 0)
    # Sums of shifts, not of coordinates, lose no digits far from the origin.
    return boxes[picks] + (weights * shifts).sum(1)


def _members(groups: Tensor, picks: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes in the group of each pick: rows (K, M) int64, and which of them exist (K, M)."""
    ordered, order = groups.sort(stable=True)
    wanted = groups[picks]
    start = torch.searchsorted(ordered, wanted)
    count = torch.searchsorted(ordered, wanted, right=True) - start
    column = torch.arange(int(count.max()), device=groups.device)
    rows = (start.unsqueeze(1) + column).clamp(max=len(groups) - 1)
    return order[rows], column < count.unsqueeze(1)


def _remaining(
    iou: Tensor, members: Tensor, groups: Tensor, picks: Tensor, scores: Tensor, nms: Mapping
) -> Tensor:
    """(K, M) bool: NMS had neither picked nor removed the member before it made the pick."""
    threshold = nms.get("iou_threshold", 0.3)
    if nms.get("type", "nms") == "nms":
        decay = torch.where(iou > threshold, _NEVER, 0.0)
        floor = 0.5 * _NEVER
    else:
        method, floor = nms.get("method", "linear"), math.log(nms.get("min_score", 1e-3))
        if method == "gaussian":
            decay = -iou.square() / nms.get("sigma", 0.5)
        else:
            lowered = (1 - iou).log().clamp(min=_NEVER) if method == "linear" else _NEVER
            decay = torch.where(iou >= threshold, lowered, 0.0)
    k = torch.arange(len(picks), device=picks.device)
    before = (k < k.unsqueeze(1)) & (groups[picks] == groups[picks].unsqueeze(1))
    # Members of one group have the same columns in the rows of all its picks.
    log_score = scores.log()[members] + before.to(decay) @ decay
    rank = torch.full_like(groups, len(picks))
    rank[picks] = k
    return (rank[members] >= k.unsqueeze(1)) & (log_score >= floor)


def check_var_vote(var_vote: Mapping | None, nms: Mapping | None) -> dict:
    """Options of variance voting with their defaults.

    Args:
        var_vote: some or all of
            ``dict(sigma_t=0.02, iou_thr=0.0, candidates='all', space='delta')``:

            - ``sigma_t``, ``iou_thr``: see :func:`variance_vote`;
            - ``candidates``: ``'all'`` or ``'remaining'``, see ``remaining`` there;
            - ``space``: variances of the normalised coordinates (``'delta'``, as published) or of
              the sides in pixels (``'pixel'``); their ratio depends on the proposal's size.
        nms: config of the NMS that is used with it.

    Raises:
        ValueError: an option or a value is unknown, or the NMS is of a type whose order of removal
            ``'remaining'`` cannot reconstruct.
    """
    options = dict(sigma_t=0.02, iou_thr=0.0, candidates="all", space="delta")
    given = dict(var_vote or {})
    if unknown := set(given) - set(options):
        raise ValueError(f"var_vote has unknown options {sorted(unknown)}; known: {options}")
    options.update(given)
    for name, choices in (("candidates", ("all", "remaining")), ("space", ("delta", "pixel"))):
        if options[name] not in choices:
            raise ValueError(f"var_vote.{name}={options[name]!r}; use one of {choices}")
    if not options["sigma_t"] > 0:
        raise ValueError(f"var_vote.sigma_t={options['sigma_t']} must be positive")
    if options["candidates"] == "remaining" and nms is not None:
        kind = nms.get("type", "nms")
        if kind not in ("nms", "soft_nms") or nms.get("class_agnostic") or nms.get("offset"):
            raise ValueError(
                f"var_vote.candidates='remaining' needs nms or soft_nms per class, got {dict(nms)};"
                " use candidates='all'"
            )
    return options


def select_detections(candidates: Sequence[InstanceData], cfg: Mapping) -> list[InstanceData]:
    """Apply NMS and the vote, and add uncertainties, for all images of a batch.

    Args:
        candidates: per image ``bboxes`` (n, 4), ``scores`` (n,), ``labels`` (n,) int64,
            ``side_std`` (n, 4) standard deviations of the sides in the unit of ``bboxes``, and
            ``alpha`` (n, 4) log-variances of the normalised coordinates.
        cfg: ``nms`` (None: all candidates, without a vote), ``max_per_img`` (-1: no limit) and
            ``var_vote`` (see :func:`check_var_vote`; absent or None: no vote).

    Returns:
        Per image, by descending score and, with NMS, without boxes that are not finite: ``bboxes``
        (k, 4), ``scores`` (k,), ``labels`` (k,), and the
        uncertainties of the picked boxes, which a vote moves but does not make more certain:

        - ``side_std`` (k, 4): standard deviations of x1, y1, x2, y2, in the unit of ``bboxes``;
        - ``box_cov`` (k, 4, 4), ``box_std`` (k, 4): the same in encoded coordinates relative to the
          box, see :func:`~ebm_mmdet.models.side_uncertainty.side_std_to_covariance`.

    Raises:
        ValueError: see :func:`check_var_vote`.
    """
    nms = cfg.get("nms")
    options = check_var_vote(cfg.get("var_vote"), nms)
    picks, found = [], []
    for image in candidates:
        keep, scores = _suppress(image, nms, cfg.get("max_per_img", -1))
        picks.append(keep)
        found.append(image[keep])
        found[-1].scores = scores
    if cfg.get("var_vote") is not None and nms is not None:
        _vote(candidates, picks, found, nms, options)
    for image in found:
        image.pop("alpha")
        image.box_cov = side_std_to_covariance(image.bboxes, image.side_std)
        image.box_std = image.box_cov.diagonal(dim1=1, dim2=2).sqrt()
    # From here on other code may rescale the boxes, and side_std has to follow them.
    return [UncertainInstances.of(image) for image in found]


def _suppress(image: InstanceData, nms: Mapping | None, limit: int) -> tuple[Tensor, Tensor]:
    """Rows that NMS keeps, (k,) int64, and their scores (k,).

    A box with a number that is not finite is left out: mmcv shifts the boxes of each class by the
    largest coordinate of all, so it would keep every other box from being suppressed.
    """
    rows = torch.arange(len(image), device=image.labels.device)
    if nms is not None:
        rows = rows[image.bboxes.isfinite().all(1)]
    if len(rows) == 0:  # mmcv's function does not accept an empty set
        return rows, image.scores[rows]
    kept, keep = batched_nms(image.bboxes[rows], image.scores[rows], image.labels[rows], nms)
    limit = limit if limit > 0 else len(keep)
    return rows[keep[:limit]], kept[:limit, 4]


def _vote(
    candidates: Sequence[InstanceData],
    picks: Sequence[Tensor],
    found: Sequence[InstanceData],
    nms: Mapping,
    options: Mapping,
) -> None:
    """Vote once for all images and write the result into ``bboxes`` of ``found``."""
    everything = InstanceData.cat(list(candidates))
    if len(everything) == 0:
        return
    sizes = torch.tensor([len(image) for image in candidates], device=everything.labels.device)
    first = sizes.cumsum(0) - sizes
    images = torch.arange(len(sizes), device=sizes.device)
    image_index = images.repeat_interleave(sizes, output_size=len(everything))
    delta = options["space"] == "delta"
    voted = variance_vote(
        everything.bboxes,
        everything.alpha if delta else 2 * everything.side_std.log(),
        image_index * (everything.labels.max() + 1) + everything.labels,
        torch.cat([keep + start for keep, start in zip(picks, first)]),
        options["sigma_t"],
        options["iou_thr"],
        (everything.scores, nms) if options["candidates"] == "remaining" else None,
    )
    for image, boxes in zip(found, voted.split([len(keep) for keep in picks])):
        image.bboxes = boxes
