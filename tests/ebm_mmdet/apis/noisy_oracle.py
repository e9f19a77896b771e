"""Images of random boxes, and a detector that knows them but for noise of a wrong size."""

from __future__ import annotations

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.detectors import BaseDetector
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

CLASSES = ("ape", "bat", "cat")


@DATASETS.register_module()
class RandomBoxes(torch.utils.data.Dataset):
    """Blank images with 4 to 7 boxes of 20 to 120 pixels; boxes of one image are of like sizes."""

    def __init__(self, num_images: int, seed: int) -> None:
        self.num_images, self.seed, self.reads = num_images, seed, 0
        self.metainfo = dict(classes=CLASSES)

    def __len__(self) -> int:
        return self.num_images

    def get_data_info(self, index: int) -> dict:
        return dict(img_id=index)

    def __getitem__(self, index: int) -> dict:
        self.reads += 1
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        number = int(torch.randint(4, 8, (), generator=generator))
        middle = 30 + 60 * torch.rand((), generator=generator)
        size = middle * (0.7 + 0.6 * torch.rand(number, 2, generator=generator))
        corner = (
            100 * torch.rand(number, 2, generator=generator) + 300 * torch.arange(number)[:, None]
        )
        truth = InstanceData(
            bboxes=torch.cat((corner, corner + size), dim=1),
            labels=torch.randint(0, 3, (number,), generator=generator),
        )
        sample = DetDataSample(metainfo=dict(img_id=1000 * self.seed + index, img_shape=(8, 8)))
        sample.gt_instances = truth
        return dict(inputs=torch.zeros(3, 8, 8, dtype=torch.uint8), data_samples=sample)


@MODELS.register_module()
class NoisyOracle(BaseDetector):
    """Errors of class c are Laplace, and 1 + c times as large as the stated ``side_std``.

    Args:
        with_std: whether it states one.
    """

    def __init__(self, with_std: bool = True, data_preprocessor=None) -> None:
        super().__init__(data_preprocessor or DetDataPreprocessor())
        self.with_std = with_std
        self.scale = torch.nn.Parameter(torch.ones(()))

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        for sample in batch_data_samples:
            torch.manual_seed(sample.img_id)
            truth = sample.gt_instances
            boxes, labels = truth.bboxes.float(), truth.labels
            stated = 0.5 + torch.rand(len(boxes), 4)
            noise = torch.distributions.Laplace(0.0, 1.0).sample((len(boxes), 4))
            found = InstanceData(
                bboxes=boxes + noise * stated * (1 + labels[:, None]) * self.scale.detach(),
                scores=torch.full((len(boxes),), 0.9),
                labels=labels,
            )
            if self.with_std:
                found.side_std = stated
            sample.pred_instances = found
        return batch_data_samples

    def loss(self, *args, **kwargs):
        raise NotImplementedError

    _forward = extract_feat = loss


CONFIG = """
custom_imports = dict(imports=['tests.ebm_mmdet.apis.noisy_oracle'], allow_failed_imports=False)
model = dict(type='NoisyOracle')
test_dataloader = dict(dataset=dict(
    type='RandomBoxes', num_images=90, seed={seed}))
"""
