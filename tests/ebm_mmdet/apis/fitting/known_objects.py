"""Detections of known objects, and a head that knows these."""

from __future__ import annotations

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from ebm_mmdet.apis.fitting.detections import Detected
from ebm_mmdet.apis.fitting.images import Images
from ebm_mmdet.models.box_coding import decode_boxes, encode_boxes

TRUTH = [torch.tensor([[20.0, 30, 90, 100], [110, 40, 170, 150]]) + 3 * i for i in range(24)]


class Answers(nn.Module):
    """A head that knows the objects: f = -|y - y*|² / (2 · 0.01²); its offsets are zeros."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def prepare(self, maps):
        return maps

    def log_density_fn(self, feats, reference, batch_index, labels):
        return Peak(self, TRUTH[int(feats[0].flatten()[0])], reference, feats, batch_index)

    def offsets(self, feats, boxes, batch_index):
        return torch.zeros(len(boxes), 4)


class Peak:
    def __init__(self, head, truth, reference, feats, batch_index) -> None:
        self.head, self.truth, self.reference = head, truth, reference
        self.feats, self.batch_index = feats, batch_index

    def __call__(self, y):
        best = encode_boxes(self.truth, self.reference)
        return -(y - best[:, None]).square().sum(-1) / (2 * 0.01**2)

    def select(self, index):
        picked = self.truth[index], self.reference[index], self.feats, self.batch_index[index]
        return Peak(self.head, *picked)


class Given:
    """A data set of annotations alone."""

    def __len__(self):
        return len(TRUTH)

    def __getitem__(self, index):
        return dict(inputs=index, data_samples=None)

    def get_data_info(self, index):
        boxes = TRUTH[index].tolist()
        return dict(instances=[dict(bbox=box, bbox_label=i) for i, box in enumerate(boxes)])


def boxes_of(indices) -> torch.Tensor:
    return torch.cat([detected(i).sample.pred_instances.bboxes for i in indices])


def detected(index: int) -> Detected:
    """Both objects, each a little beside its place."""
    generator = torch.Generator().manual_seed(index)
    wrong = torch.tensor([0.03, -0.02, 0.05, 0.04]) + 0.04 * torch.randn(2, 4, generator=generator)
    found = InstanceData(
        bboxes=decode_boxes(wrong, TRUTH[index]),
        scores=torch.tensor([0.9, 0.6]),
        labels=torch.tensor([0, 1]),
    )
    meta = dict(img_shape=(400, 400), ori_shape=(400, 400), scale_factor=(1.0, 1.0))
    maps = (torch.full((1, 1, 1, 1), float(index)),)
    return Detected(maps, DetDataSample(metainfo=meta, pred_instances=found), 0.01)


class Seen(Images):
    """Images whose detections are given."""

    def __init__(self, detected) -> None:
        self.detected = detected

    def detect(self, model, item, max_dets):
        return self.detected(item["inputs"])


BASE = dict(type="GradientAscentRefiner", step_size=1e-7, num_steps=10, decay=0.5)
FACTS = dict(images=1, boxes=1, held_out=frozenset(), judge=None, most_objects=2)
FACTS |= dict(judged_on_training_images=False, notes=[], rest=())
