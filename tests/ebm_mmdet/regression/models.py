"""Small models and labels that the tests of image regression share."""

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

import ebm_mmdet  # noqa: F401  registers everything
from ebm_mmdet.regression import RegressionDataSample
from ebm_mmdet.regression.target_codec import TargetCodec

COUNT = {"ranges": [(1, 40)], "dequantise": True}
POSE = {"ranges": [(-75, 75), (-60, 60), (-40, 40)], "mean": [1, 2, 3], "std": [30, 20, 10]}
ANGLE = {"ranges": [(-180, 180)], "periods": [360.0]}
MIXED = {"ranges": [(0, 360), (0, 5)], "periods": [360.0, None]}
CODECS = {"count": COUNT, "pose": POSE, "angle": ANGLE, "mixed": MIXED}
PLAIN = {"y_gain": 1.0, "f_gain": 1.0}
HEADS = {
    "direct": {"type": "DirectRegressionHead"},
    "mixture": {"type": "MixtureRegressionHead", "num_components": 3},
    "softmax": {"type": "SoftmaxRegressionHead", "num_bins": 20, "expectation_weight": 0.1},
    "ebm": {"type": "EBMRegressionHead", "y_dims": (8, 12), "hidden": 16, **PLAIN},
    "ebm_mdn": {
        "type": "EBMRegressionHead",
        "y_dims": (8, 12),
        "hidden": 16,
        **PLAIN,
        "proposal": {"num_components": 3},
    },
    "ebm_residual": {
        "type": "EBMRegressionHead",
        "y_dims": (8, 12),
        "hidden": 16,
        **PLAIN,
        "proposal": {"num_components": 3},
        "residual": True,
    },
}
PREPROCESSOR = {
    "type": "mmengine.ImgDataPreprocessor",
    "mean": [128.0] * 3,
    "std": [64.0] * 3,
    "bgr_to_rgb": True,
}
BACKBONE = {
    "type": "ResNet",
    "depth": 18,
    "base_channels": 8,
    "num_stages": 2,
    "strides": (1, 2),
    "dilations": (1, 1),
    "out_indices": (1,),
    "norm_eval": False,
}
WIDTH = 16


def codec(name: str) -> TargetCodec:
    return TargetCodec(**CODECS[name])


def build_head(head: str, labels: str = "count", **changes) -> nn.Module:
    settings = {"in_channels": WIDTH, "codec": CODECS[labels], **HEADS[head], **changes}
    return MODELS.build(settings)


def regressor_config(head: str, labels: str = "count", **changes) -> dict:
    return {
        "type": "ImageRegressor",
        "data_preprocessor": PREPROCESSOR,
        "backbone": BACKBONE,
        "head": {"in_channels": WIDTH, "codec": CODECS[labels], **HEADS[head]},
        "test_cfg": {"num_samples": 64, "num_resampled": 16, "grid_points": 129},
        **changes,
    }


def build_regressor(head: str, labels: str = "count", **changes) -> nn.Module:
    return MODELS.build(regressor_config(head, labels, **changes))


def labelled(targets: Sequence | Tensor) -> list[RegressionDataSample]:
    samples = []
    for index, target in enumerate(targets):
        sample = RegressionDataSample(metainfo={"img_path": f"image {index}.png"})
        sample.set_gt_target(target)
        samples.append(sample)
    return samples


def middle(labels: str, n: int) -> list[RegressionDataSample]:
    """Labels in the middle of their ranges, slightly different from each other."""
    ranges = torch.tensor(CODECS[labels]["ranges"], dtype=torch.float64)
    centre, width = ranges.mean(1), ranges[:, 1] - ranges[:, 0]
    return labelled([centre + 0.02 * i * width for i in range(n)])


def images(n: int, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(256, (3, size, size), dtype=torch.uint8, generator=generator)
        for _ in range(n)
    ]
