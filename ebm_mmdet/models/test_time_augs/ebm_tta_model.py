"""Test-time augmentation that keeps all fields of each box."""

from __future__ import annotations

import torch
from mmcv.ops import batched_nms
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.structures import InstanceData

from ..task_modules.energy_guided_nms import at_most
from ..uncertain_instances import UncertainInstances
from .auxiliary_views import merge_auxiliary_views

__all__ = ["EBMTTAModel", "flip_back"]


@MODELS.register_module()
class EBMTTAModel(DetTTAModel):
    """mmdet's ``DetTTAModel``, except that further fields of the boxes survive the merge.

    Boxes, scores and labels are those of ``DetTTAModel``: all views of an image, flipped back, in
    one NMS. The fields that our detectors add (``log_density``, ``accepted_steps``, ``box_cov``,
    ``box_std``, ``side_std``, ``ess``, ``log_prob``, ``box_samples``, ``modes``, ``mode_mass``),
    and those of any detector, come from the box that the NMS has kept, and are flipped back with it
    (:func:`flip_back`). A field that some view lacks is left out. Scenes, depths and normals of a
    ``ROCKDetector`` are averages over the views (:func:`.auxiliary_views.merge_auxiliary_views`).
    Boxes with a number that is not finite are left out.

    Args:
        tta_cfg: mmdet's: ``nms`` and ``max_per_img``.
        kwargs: those of ``DetTTAModel``.
    """

    def _merge_single_sample(self, data_samples: list[DetDataSample]) -> DetDataSample:
        """Merge the views of one image into the first of them; mmdet calls this method."""
        if any("masks" in sample.pred_instances for sample in data_samples):
            raise NotImplementedError(
                "test-time augmentation cannot merge masks; leave --tta out, or predict without "
                "the mask head"
            )
        merge_auxiliary_views(data_samples)
        views = [
            flip_back(sample.pred_instances, sample.metainfo)
            for sample in data_samples
            if len(sample.pred_instances)
        ]
        if not views:
            return data_samples[0]
        common = set.intersection(*(set(view.keys()) for view in views))
        # mmengine's, because a field may be an array or a list as well.
        everything = InstanceData.cat(
            [InstanceData(**{name: view[name] for name in sorted(common)}) for view in views]
        )
        # mmcv's NMS shifts the boxes of each class by the largest coordinate of all, so one that is
        # not finite would keep every other box from being suppressed.
        everything = everything[everything.bboxes.isfinite().all(1)]
        if "box_cov" in everything or "interval_reach" in everything:
            everything = UncertainInstances.of(everything)
        if not len(everything):
            data_samples[0].pred_instances = everything
            return data_samples[0]
        kept, rows = batched_nms(
            everything.bboxes.float(),
            everything.scores.float(),
            everything.labels,
            self.tta_cfg["nms"],
        )
        most = at_most(self.tta_cfg["max_per_img"])
        merged = everything[rows][:most]
        merged.bboxes, merged.scores = kept[:most, :4], kept[:most, 4]
        data_samples[0].pred_instances = merged
        return data_samples[0]


def flip_back(instances: InstanceData, metainfo: dict) -> InstanceData:
    """Convert detections of a mirrored image to the coordinates of the original image.

    Mirroring along x changes the sign of the encoded centre cx / w and swaps the left and the right
    side; along y likewise:

        box_cov   C' = S C S,   S = diag(-1, 1, 1, 1) along x, diag(1, -1, 1, 1) along y
        side_std  (σ3, σ2, σ1, σ4) along x, (σ1, σ4, σ3, σ2) along y, if it is stored
        interval_reach  likewise, and below and above change places on the sides that do
        boxes     mmdet's ``bbox_flip``, as for ``box_samples`` (n, S, 4) and ``modes`` (n, K, 4)

    Args:
        instances: ``bboxes`` (n, 4) in pixels of the image before scaling, and any other fields;
            not changed.
        metainfo: ``flip``, ``flip_direction`` and ``ori_shape`` of the view.

    Returns:
        The same fields; those not named above have the same values.
    """
    if not metainfo.get("flip"):
        return instances
    direction, shape = metainfo["flip_direction"], metainfo["ori_shape"]
    flipped = instances.clone()
    flipped.bboxes = bbox_flip(instances.bboxes, shape, direction)
    for name in ("box_samples", "modes"):
        if name in instances:
            several = instances.get(name)
            back = bbox_flip(several.flatten(0, 1), shape, direction).view_as(several)
            flipped.set_field(back, name)
    if "box_cov" in instances:
        sign = torch.ones(4).to(instances.box_cov)
        sign[:2] = torch.tensor(
            [
                -1.0 if direction in ("horizontal", "diagonal") else 1.0,
                -1.0 if direction in ("vertical", "diagonal") else 1.0,
            ]
        )
        flipped.box_cov = sign[:, None] * instances.box_cov * sign
    order = {"horizontal": [2, 1, 0, 3], "vertical": [0, 3, 2, 1], "diagonal": [2, 3, 0, 1]}
    order = order[direction]
    if "interval_reach" in instances:
        reach = instances.interval_reach[:, order]
        changed = torch.tensor([i != k for i, k in enumerate(order)], device=reach.device)
        flipped.interval_reach = torch.where(changed[:, None], reach.flip(-1), reach)
    if "side_std" in instances.keys():  # noqa: SIM118  (stored, and not derived from box_cov)
        flipped.side_std = instances.side_std[:, order]
    return flipped
