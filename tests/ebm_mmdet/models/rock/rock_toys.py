"""Small ROCK models and batches with scene, depth and normals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import LabelData, PixelData

import ebm_mmdet  # noqa: F401  registers the models
from tests.ebm_mmdet.models.toys import NUM_CLASSES, detector_cfg

SIZE = (64, 96)
NUM_SCENES = 4
TASKS = dict(
    scene=dict(type="SceneTask", num_scenes=NUM_SCENES),
    depth=dict(type="DepthTask", feature_channels=4),
    normals=dict(type="NormalsTask", feature_channels=6),
)
ASSIGNER = dict(
    type="MaxIoUAssigner",
    pos_iou_thr=0.5,
    neg_iou_thr=0.4,
    min_pos_iou=1e-6,
    gt_max_assign_all=False,
)
TEST_CFG = dict(
    score_thr=0.05,
    max_per_class=200,
    nms=dict(type="nms", iou_threshold=0.3),
    min_bbox_size=0,
    max_per_img=100,
)


def ssd_cfg(width: int = 4, size: Sequence[int] = SIZE, **head) -> ConfigDict:
    """A narrow SSD of all six levels; ``width`` is ResNet-18's 64."""
    outs = (16, 16, 8, 8, 8)
    return ConfigDict(
        type="SingleStageDetector",
        data_preprocessor=dict(type="DetDataPreprocessor", mean=[110.0] * 3, std=[55.0] * 3),
        backbone=dict(
            type="TorchvisionDilatedResNet",
            depth=18,
            base_channels=width,
            stem_channels=width,
            strides=(1, 2, 2, 1),
            dilations=(1, 1, 1, 2),
            out_indices=(3,),
            norm_eval=False,
        ),
        neck=dict(
            type="SSDLevels",
            in_channels=8 * width,
            mid_channels=(8, 8, 4, 4, 4),
            out_channels=outs,
            input_size=tuple(size),
        ),
        bbox_head=dict(
            type="ROCKSSDHead", num_classes=NUM_CLASSES, in_channels=(8 * width, *outs), **head
        ),
        train_cfg=dict(assigner=ASSIGNER, smoothl1_beta=1.0),
        test_cfg=TEST_CFG,
    )


def block_cfg(names: Sequence[str] = tuple(TASKS), in_channels: int = 32, **overrides) -> dict:
    tasks = {name: TASKS[name] for name in names}
    return dict(type="ROCKBlock", in_channels=in_channels, mid_channels=8, tasks=tasks, **overrides)


def rock_cfg(detector: str | dict = "ssd", block: dict | None = None, **overrides) -> ConfigDict:
    """``ROCKDetector`` around the SSD, or around one of the small detectors with an FPN."""
    if isinstance(detector, str):
        channels = 64 if detector in ("faster_rcnn", "retinanet") else 32
        block = block or block_cfg(in_channels=channels)
        detector = ssd_cfg() if detector == "ssd" else fpn_detector(detector)
    return ConfigDict(
        dict(type="ROCKDetector", detector=detector, block=block or block_cfg(), **overrides)
    )


def fpn_detector(name: str) -> ConfigDict:
    if name != "rtmdet":
        return detector_cfg(name)
    return ConfigDict(
        type="RTMDet",
        data_preprocessor=dict(type="DetDataPreprocessor", mean=[110.0] * 3, std=[55.0] * 3),
        backbone=dict(
            type="CSPNeXt",
            deepen_factor=0.167,
            widen_factor=1 / 32,
            norm_cfg=dict(type="BN"),
            act_cfg=dict(type="SiLU"),
        ),
        neck=dict(
            type="CSPNeXtPAFPN",
            in_channels=[8, 16, 32],
            out_channels=16,
            num_csp_blocks=1,
            norm_cfg=dict(type="BN"),
            act_cfg=dict(type="SiLU"),
        ),
        bbox_head=dict(
            type="RTMDetSepBNHead",
            num_classes=NUM_CLASSES,
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=[8, 16, 32]),
            bbox_coder=dict(type="DistancePointBBoxCoder"),
            loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True),
            loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
            with_objectness=False,
            norm_cfg=dict(type="BN"),
            act_cfg=dict(type="SiLU"),
        ),
        train_cfg=dict(
            assigner=dict(type="DynamicSoftLabelAssigner", topk=13),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(
            nms_pre=100,
            min_bbox_size=0,
            score_thr=0.0,
            nms=dict(type="nms", iou_threshold=0.65),
            max_per_img=20,
        ),
    )


def build(cfg: dict, seed: int = 0) -> torch.nn.Module:
    init_default_scope("mmdet")
    torch.manual_seed(seed)
    model = MODELS.build(ConfigDict(cfg))
    model.init_weights()
    return model.eval()


def add_targets(sample, number: int, stride: int = 16) -> None:
    """Random depth, normals and scene, which depend on ``number`` only."""
    generator = torch.Generator().manual_seed(number)
    size = [-(-side // stride) for side in sample.metainfo["img_shape"]]
    sample.gt_depth = PixelData(depth=torch.rand(1, *size, generator=generator) * 8 + 0.5)
    normals = F.normalize(torch.randn(3, *size, generator=generator), dim=0)
    mask = torch.rand(1, *size, generator=generator) > 0.2
    sample.gt_normals = PixelData(normals=normals, mask=mask)
    sample.gt_scene = LabelData(label=torch.tensor([number % NUM_SCENES]))


def batch(
    model, num_items=(2, 3), training: bool = False, size: Sequence[int] = SIZE, seed: int = 0
) -> dict:
    """Preprocessed inputs and data samples with all targets; images differ with the seed."""
    raw = demo_mm_inputs(
        len(num_items),
        [(3, *size)] * len(num_items),
        num_items=list(num_items),
        num_classes=NUM_CLASSES,
    )
    generator = torch.Generator().manual_seed(seed)
    for i, sample in enumerate(raw["data_samples"]):
        raw["inputs"][i] = torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8)
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
        add_targets(sample, 10 * seed + i)
    return model.data_preprocessor(raw, training)
