"""A detector that knows the generated vehicles of a scene, but for noise of a wrong size."""

from __future__ import annotations

import torch
from mmdet3d.models.detectors import Base3DDetector
from mmdet3d.registry import MODELS
from mmengine.structures import InstanceData

SIGMAS = (0.15, 0.1, 0.05, 0.2, 0.05, 0.05, 0.03)
"""Of x, y, z, l, w, h, yaw where ``box_std`` states half of it; errors of vans are doubled."""


@MODELS.register_module()
class NoisyOracle3D(Base3DDetector):
    """Laplace errors, and every fifth box turned by half a circle.

    Args:
        with_std: whether it states a ``box_std``.
    """

    def __init__(self, with_std: bool = True, data_preprocessor=None) -> None:
        super().__init__(data_preprocessor or dict(type="Det3DDataPreprocessor"))
        self.with_std = with_std
        self.scale = torch.nn.Parameter(torch.ones(()))

    def predict(self, batch_inputs_dict, batch_data_samples, **kwargs):
        found = []
        for points, sample in zip(batch_inputs_dict["points"], batch_data_samples):
            generator = torch.Generator().manual_seed(int(1e4 * points.sum().abs()) % 2**31)
            truth = sample.gt_instances_3d
            boxes, labels = truth.bboxes_3d.tensor, truth.labels_3d
            stated = (0.5 + torch.rand(boxes.shape, generator=generator)) * torch.tensor(SIGMAS) / 2
            noise = torch.rand(boxes.shape, generator=generator).clamp(1e-4, 1 - 1e-4) - 0.5
            noise = -noise.sign() * (1 - 2 * noise.abs()).log() / 2**0.5  # of unit variance
            boxes = boxes + self.scale.detach() * 2 * stated * noise * (1 + labels[:, None])
            boxes[:, 6] += torch.pi * (torch.rand(len(boxes), generator=generator) < 0.2)
            fields = dict(box_std=stated) if self.with_std else {}
            found.append(
                InstanceData(
                    bboxes_3d=truth.bboxes_3d.new_box(boxes),
                    scores_3d=torch.full((len(boxes),), 0.9),
                    labels_3d=labels,
                    **fields,
                )
            )
        return self.add_pred_to_datasample(batch_data_samples, found)

    def loss(self, *args, **kwargs):
        raise NotImplementedError

    _forward = extract_feat = loss


CONFIG = """
custom_imports = dict(
    imports=['ebm_mmdet3d', 'tests.ebm_mmdet3d.noisy_oracle3d'], allow_failed_imports=False)
default_scope = 'mmdet3d'
model = dict(type='NoisyOracle3D')
test_dataloader = dict(dataset=dict(
    type='LidarScenesDataset', num_scenes={scenes}, seed={seed},
    scene=dict(num_vehicles=(8, 14), num_clutter=(0, 1), van_share=0.4, extent=(5, -20, 40, 20),
               lidar=dict(num_beams=12, azimuth_step=1.0)),
    pipeline=[dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])]))
"""
