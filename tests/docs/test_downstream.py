"""A separate project that follows docs/downstream.md literally."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import mmdet
import numpy as np
import pytest
import torch

REPO = Path(__file__).resolve().parents[2]
MMDET_TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools"

# The user's detector: mmdet's Faster R-CNN, three classes, with a backbone that is quick to run.
USER_CONFIG = """
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(depth=18, base_channels=8, init_cfg=None, frozen_stages=-1),
    neck=dict(in_channels=[8, 16, 32, 64]),
    rpn_head=dict(feat_channels=16),
    roi_head=dict(bbox_head=dict(num_classes=3)),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)))
load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 96), keep_ratio=True)]
pack = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                                             'scale_factor'))
data = dict(
    _delete_=True, type='CocoDataset', data_root='data', ann_file='boxes.json',
    data_prefix=dict(img=''), metainfo=dict(classes=('a', 'b', 'c')))
train_dataloader = dict(num_workers=0, persistent_workers=False, batch_size=1, dataset=dict(
    data, pipeline=load + [dict(type='LoadAnnotations', with_bbox=True), pack]))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data, test_mode=True, pipeline=load + [pack]))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/boxes.json')
test_evaluator = val_evaluator
"""

SAVE_USER_CHECKPOINT = """
import sys, torch
from mmengine.config import Config
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
init_default_scope('mmdet')
torch.manual_seed(0)
model = MODELS.build(Config.fromfile('my_detector.py').model)
model.init_weights()
torch.save(dict(state_dict=model.state_dict()), sys.argv[1])
"""


def python_blocks() -> list[str]:
    text = (REPO / "docs" / "downstream.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.S)


def run(project: Path, *command: object) -> str:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=project,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder with the user's data, config and checkpoint, and the config from the page."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id in (1, 2):
        picture = rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "data" / f"{image_id}.png"), picture)
        images.append(dict(id=image_id, width=96, height=96, file_name=f"{image_id}.png"))
        box = [*rng.integers(0, 40, 2).tolist(), *rng.integers(20, 50, 2).tolist()]
        annotation = dict(id=image_id, image_id=image_id, category_id=image_id, bbox=box)
        annotations.append(annotation | dict(area=box[2] * box[3], iscrowd=0))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate("abc")]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / "data" / "boxes.json").write_text(json.dumps(content))
    (folder / "my_detector.py").write_text(USER_CONFIG)
    (folder / "my_detector_ebm.py").write_text(python_blocks()[0])
    (folder / "work_dirs" / "my_detector").mkdir(parents=True)
    run(folder, "-c", SAVE_USER_CHECKPOINT, "work_dirs/my_detector/epoch_12.pth")
    return folder


@pytest.mark.slow
def test_the_page_works_with_mmdets_own_tools(project, monkeypatch):
    log = run(
        *(project, MMDET_TOOLS / "train.py", "my_detector_ebm.py", "--cfg-options"),
        *("train_cfg.max_iters=2", "train_cfg.val_interval=2"),
        *("default_hooks.checkpoint.interval=2", "default_hooks.logger.interval=1"),
    )
    assert "trunk copied from roi_head.bbox_head.shared_fcs" in log
    assert "loss_energy" in log
    assert "coco/bbox_mAP_90" in log

    trained = project / "work_dirs" / "my_detector_ebm" / "iter_2.pth"
    import ebm_mmdet  # noqa: F401  (allows loading training checkpoints)

    before = torch.load(project / "work_dirs/my_detector/epoch_12.pth", weights_only=True)
    after = torch.load(trained, weights_only=True)["state_dict"]
    for name, value in before["state_dict"].items():
        assert torch.equal(after[f"detector.{name}"], value), name

    # Section 4, as written but for the names of the files.
    monkeypatch.chdir(project)
    script = python_blocks()[-1].replace("iter_10000.pth", "iter_2.pth")
    values = {}
    exec(script.replace("picture.jpg", "data/1.png"), values)
    found = values["found"]
    assert found.bboxes.shape == (5, 4)
    assert found.log_density.shape == found.accepted_steps.shape == (5,)
    assert len(values["result"]["predictions"][0]["detected_bboxes"]) == 5
    assert (project / "out" / "vis" / "1.png").is_file()


def test_refinement_can_be_switched_off_on_the_command_line():
    from mmengine.config import Config, DictAction

    block = python_blocks()[0].replace("_base_ = './my_detector.py'", "")
    cfg = Config.fromstring(block.replace("_base_.model", "dict()"), ".py")
    name, _, value = "model.refiner=None".partition("=")
    cfg.merge_from_dict({name: DictAction._parse_iterable(value)})
    assert cfg.model.refiner is None
    assert "--cfg-options model.refiner=None" in (REPO / "docs" / "downstream.md").read_text()
