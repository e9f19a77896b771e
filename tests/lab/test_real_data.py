"""Recipes for data that cannot be redistributed read the data of EBM_DATA_ROOT."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

import torch
from mmdet.registry import DATASETS
from mmdet.utils import register_all_modules

import ebm_mmdet  # noqa: F401
from tests.lab.real_data import ROOT, needs, on_real_data

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = [
    ("nuclei/yolox_nano_nuclei.py", 100, 40),
    ("nuclei/faster_rcnn_mobilenetv2_fpn_nuclei_nceplus.py", 100, 40),
    ("coco_open/yolox_nano_ebm.py", 85, 53),
]


@pytest.mark.parametrize(
    ("name", "train", "val"),
    [
        pytest.param(*row, marks=needs(folder))
        for row, folder in zip(RECIPES, ("nuclei_dsb2018", "nuclei_dsb2018", "coco_open"))
    ],
)
def test_images_and_boxes(name, train, val):
    register_all_modules()
    cfg = on_real_data(CONFIGS / name)
    assert str(ROOT) in cfg.val_evaluator.ann_file
    for dataset, number in (
        (cfg.train_dataloader.dataset, train),
        (cfg.val_dataloader.dataset, val),
        (cfg.get("fit_dataset"), train),
    ):
        if dataset is None:
            continue
        built = DATASETS.build(dataset)
        # Images without an object may be left out of a training.
        assert number - 5 <= len(built) <= number
        sample = built[0]
        assert sample["inputs"].shape[0] == 3
        assert torch.isfinite(sample["inputs"].float()).all()


@needs("coco_open")
def test_the_weights_are_those_that_the_readme_describes():
    """All tensors fit the network of the config."""
    from mmdet.registry import MODELS

    register_all_modules()
    cfg = on_real_data(CONFIGS / "coco_open" / "yolox_nano_ebm.py")
    detector = MODELS.build(cfg.model.detector)
    if not Path(cfg.load_from).is_file():
        pytest.skip("EBM_DATA_ROOT has no weights of YOLOX-nano")
    state = torch.load(cfg.load_from, weights_only=True)["state_dict"]
    detector.load_state_dict(state, strict=True)
