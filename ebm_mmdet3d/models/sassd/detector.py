"""SA-SSD as in its paper."""

from __future__ import annotations

import torch
from mmdet3d.models.detectors.single_stage import SingleStage3DDetector
from mmdet3d.models.layers import nms_bev
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes, xywhr2xyxyr
from mmdet3d.structures.det3d_data_sample import SampleList
from mmengine.structures import InstanceData
from torch import Tensor

from .auxiliary_head import PointLevel

__all__ = ["SASSDPaper"]


@MODELS.register_module()
class SASSDPaper(SingleStage3DDetector):
    """Points, sparse encoder, bird's-eye-view network, proposals, part-sensitive warping.

    It differs from mmdet3d's ``SASSD`` in this: every point is a separate site, the encoder keeps
    five heights (320 channels), the 2D network has one scale, anchors lie in the centres of cells
    that have points, boxes are scored again at their own positions, and the auxiliary network gets
    the features that the paper intends.

    Use ``Det3DDataPreprocessor(voxel=True, voxel_type='dynamic')``, which keeps all points and
    gives each the index of its voxel. With ``voxel_type='hard'`` and a ``HardSimpleVFE`` as
    ``voxel_encoder``, sites are the means of voxels instead. The preprocessor's ``voxel_layer``
    determines size and position of the voxels, and so of the map.

    Args:
        middle_encoder: config of a ``SASSDSparseEncoder``.
        backbone: config of a ``SASSDBEVNet``.
        bbox_head: config of a ``SASSDHead``, which proposes boxes from ``backbone``'s last map.
        rescore_head: config of a ``PSWarpHead``, which scores them on the map before that.
        auxiliary_head: config of a ``SASSDAuxiliaryHead``, or None to train without it.
        voxel_encoder: config, for hard voxels only.
        train_cfg: settings of the proposals (``assigner``, ``pos_weight``), and ``guide_thr``: in
            training, proposals with a score above it are scored again, together with the annotated
            boxes.
        test_cfg: ``guide_thr`` likewise; ``score_thr`` and ``nms_thr`` (overlap in bird's-eye
            view) for the final boxes; ``max_num``, their largest number, all if absent.
        data_preprocessor: see above.
        init_cfg: mmengine's.

    Source: He et al., "Structure Aware Single-stage 3D Object Detection from Point Cloud",
    CVPR 2020, and its released code.
    """

    def __init__(
        self,
        middle_encoder: dict,
        backbone: dict,
        bbox_head: dict,
        rescore_head: dict,
        auxiliary_head: dict | None = None,
        voxel_encoder: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            backbone,
            bbox_head=bbox_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.middle_encoder = MODELS.build(middle_encoder)
        self.rescore_head = MODELS.build(rescore_head)
        self.auxiliary_head = MODELS.build(auxiliary_head) if auxiliary_head else None
        self.voxel_encoder = MODELS.build(voxel_encoder) if voxel_encoder else None
        if not hasattr(self.data_preprocessor, "voxel_layer"):
            raise ValueError(
                "SASSDPaper needs data_preprocessor=dict(type='Det3DDataPreprocessor', "
                "voxel=True, voxel_type='dynamic', voxel_layer=dict(...))"
            )

    @property
    def _voxel_size(self) -> list[float]:
        return list(self.data_preprocessor.voxel_layer.voxel_size)

    @property
    def _origin(self) -> list[float]:
        return list(self.data_preprocessor.voxel_layer.point_cloud_range[:3])

    def _sites(self, batch_inputs_dict: dict) -> tuple[Tensor, Tensor, int]:
        """Features (N, C), ``(b, z, y, x)`` (N, 4) and the number of frames."""
        voxels = batch_inputs_dict["voxels"]
        features, coors = voxels["voxels"], voxels["coors"]
        if features.dim() == 3:
            if self.voxel_encoder is None:
                raise ValueError(
                    "the data preprocessor gives hard voxels; set its voxel_type to 'dynamic', or "
                    "the detector's voxel_encoder to dict(type='HardSimpleVFE')"
                )
            features = self.voxel_encoder(features, voxels["num_points"], coors)
        inside = (coors >= 0).all(dim=1)  # -1 marks points out of range
        return features[inside], coors[inside], len(batch_inputs_dict["points"])

    def _run(self, batch_inputs_dict: dict):
        """The computations that training and prediction share."""
        features, coors, batch_size = self._sites(batch_inputs_dict)
        bev, levels = self.middle_encoder(features, coors, batch_size)
        proposals, parts = self.backbone(bev)
        outs = self.bbox_head((proposals,))
        size = outs[0][0].shape[-2:]
        occupied = self.bbox_head.occupied_anchors(
            size,
            coors,
            batch_size,
            self.middle_encoder.sparse_shape[1:],
            self._voxel_size,
            self._origin,
        )
        return features, coors, levels, parts, outs, occupied

    def _rescore(self, parts: Tensor, boxes: Tensor, frame: Tensor) -> Tensor:
        cell_size = self._voxel_size[0] * self.middle_encoder.stride
        return self.rescore_head(parts, boxes, frame, self._origin[:2], cell_size)

    def extract_feat(self, batch_inputs_dict: dict) -> tuple[Tensor, Tensor]:
        """Maps (B, C, H, W): the one for proposals, and the one before it."""
        features, coors, batch_size = self._sites(batch_inputs_dict)
        return self.backbone(self.middle_encoder(features, coors, batch_size)[0])

    def loss(
        self, batch_inputs_dict: dict, batch_data_samples: SampleList, **kwargs
    ) -> dict[str, Tensor]:
        """Losses of the proposals, the second scores and the auxiliary network.

        Frames without points are trained on, even in a batch of only such frames: their losses are
        those of an empty map, and are connected to every parameter.
        """
        features, coors, levels, parts, outs, occupied = self._run(batch_inputs_dict)
        gt_boxes, gt_labels = self._ground_truth(batch_data_samples, parts.device)
        losses = self.bbox_head.masked_loss(outs, occupied, gt_boxes, gt_labels)

        boxes, frame = self.bbox_head.guided_boxes(outs, occupied, self.train_cfg["guide_thr"])
        boxes = torch.cat((*gt_boxes, boxes))
        counts = torch.tensor([len(objects) for objects in gt_boxes], device=frame.device)
        of_objects = torch.arange(len(gt_boxes), device=frame.device).repeat_interleave(counts)
        frame = torch.cat((of_objects, frame))
        logits = self._rescore(parts, boxes, frame)
        losses.update(self.rescore_head.loss(logits, boxes, frame, gt_boxes))

        if self.auxiliary_head is not None:
            levels = [
                PointLevel.from_sparse(level, 2 ** (i + 1), self._voxel_size, self._origin)
                for i, level in enumerate(levels)
            ]
            losses.update(
                self.auxiliary_head.loss(
                    features[:, :3].float(), coors[:, 0].long(), levels, gt_boxes
                )
            )
        return losses

    @staticmethod
    def _ground_truth(
        samples: SampleList, device: torch.device
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Boxes (n, 7) and labels (n,), zeros, of each frame.

        Raises:
            ValueError: an object has a label other than 0 or -1.
        """
        boxes, labels = [], []
        for sample in samples:
            gt = sample.gt_instances_3d
            label = gt.labels_3d.to(device).long()
            if len(label) and label.max() > 0:
                raise ValueError(
                    f"an object has the label {int(label.max())}, but SASSDPaper has only the "
                    "class 0; name that class alone in the data set's metainfo, or merge the "
                    "others into it (MergeClasses3D)"
                )
            known = label >= 0  # -1 marks objects of other classes
            boxes.append(gt.bboxes_3d.tensor[:, :7].to(device).float()[known])
            labels.append(label[known])
        return boxes, labels

    def predict(
        self, batch_inputs_dict: dict, batch_data_samples: SampleList, **kwargs
    ) -> SampleList:
        """Boxes with the scores of part-sensitive warping, highest first."""
        *_, parts, outs, occupied = self._run(batch_inputs_dict)
        boxes, frame = self.bbox_head.guided_boxes(outs, occupied, self.test_cfg["guide_thr"])
        scores = self._rescore(parts, boxes, frame).sigmoid()
        found = [
            self._select(boxes[frame == i], scores[frame == i], sample)
            for i, sample in enumerate(batch_data_samples)
        ]
        return self.add_pred_to_datasample(batch_data_samples, found)

    def _select(self, boxes: Tensor, scores: Tensor, sample) -> InstanceData:
        """Apply the score threshold, NMS and the limit to one frame's boxes."""
        above = scores > self.test_cfg["score_thr"]
        box_type = sample.metainfo.get("box_type_3d", LiDARInstance3DBoxes)
        boxes, scores = box_type(boxes[above], box_dim=7), scores[above]
        if len(scores):
            kept = nms_bev(xywhr2xyxyr(boxes.bev), scores, self.test_cfg["nms_thr"])
            limit = self.test_cfg.get("max_num", -1)
            kept = kept[:limit] if limit > 0 else kept
            boxes, scores = boxes[kept], scores[kept]
        return InstanceData(
            bboxes_3d=boxes, scores_3d=scores, labels_3d=torch.zeros_like(scores, dtype=torch.long)
        )

    def _forward(self, batch_inputs_dict: dict, batch_data_samples=None, **kwargs):
        return self.bbox_head(self.extract_feat(batch_inputs_dict)[:1])
