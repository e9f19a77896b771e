"""tools/train.py and tools/test.py with image regressors: a user's folder, pictures, errors."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest

from tests.tools.test_test_tool import tool

CONFIG = """
_base_ = ['ebm_mmdet::regression/_base_/demo.py', 'ebm_mmdet::regression/_base_/demo_methods.py']
model = dict(
    backbone=dict(base_channels=4, stem_channels=4),
    head=dict(_base_.pop('methods').ebm_mdn, in_channels=16, codec=dict(ranges=[(0, 100)])),
    test_cfg=dict(num_samples=32))
dataset = dict(
    type='RegressionDataset',
    data_root={root!r},
    ann_file='ages.csv',
    data_prefix=dict(img_path='some images'),
    metainfo=dict(target=dict(names=('age', ), ranges=[(0, 100)])),
    split=dict(part='train', parts=dict(train=8, test=4)),
    pipeline=[dict(type='LoadRegressionImage'), dict(type='PackRegressionInputs')])
train_dataloader = dict(batch_size=4, dataset=dataset)
test_split = dict(part='test', parts=dict(train=8, test=4))
val_dataloader = dict(batch_size=4, dataset=dict(dataset, split=test_split))
test_dataloader = val_dataloader
val_evaluator = [dict(type='RegressionMetric'), dict(type='ProbabilisticRegressionMetric')]
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Twelve grey images, of 8 and of 16 bits, with a table."""
    folder = tmp_path_factory.mktemp("a folder")
    images, rng = folder / "some images", np.random.default_rng(0)
    images.mkdir()
    lines = ["img_path,age"]
    for i in range(12):
        kind = np.uint8 if i % 2 else np.uint16
        cv2.imwrite(str(images / f"{i} x.png"), rng.integers(0, np.iinfo(kind).max, (64, 64), kind))
        lines.append(f"{i} x.png,{8 * i + 0.5}")
    (folder / "ages.csv").write_text("\n".join(lines))
    path = folder / "my_trees.py"
    path.write_text(CONFIG.format(root=str(folder)))
    return path


@pytest.fixture(scope="module")
def trained(config):
    assert tool("train").main([str(config), "--work-dir", str(config.parent / "work")]) == 0
    return config.parent / "work" / "epoch_1.pth"


def test_a_users_folder_is_trained_and_tested_with_pictures(config, trained, tmp_path):
    out = tmp_path / "predictions.pkl"
    options = ["--work-dir", tmp_path, "--out", out, "--show-dir", "pictures"]
    tool("test").main([str(config), str(trained), *map(str, options)])
    (sample, *others) = pickle.loads(out.read_bytes())
    assert len(others) == 3
    assert {"gt_target", "pred_target", "pred_interval", "gt_log_prob", "ess"} <= set(sample)
    pictures = sorted(path.name for path in tmp_path.rglob("pictures/*.png"))
    assert len(pictures) == 4
    assert pictures[0].startswith("0000_")
    assert pictures[0].endswith(" x.png")


def test_a_training_goes_on(config, trained):
    options = ["--resume", "--cfg-options", "train_cfg.max_epochs=2"]
    tool("train").main([str(config), "--work-dir", str(trained.parent), *options])
    assert (trained.parent / "epoch_2.pth").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("11 x.png,120", "120"),
        ("no such.png,20", "no such.png"),
    ],
)
def test_a_wrong_table_ends_with_one_line(config, tmp_path, line, message):
    table = config.parent / "wrong.csv"
    lines = (config.parent / "ages.csv").read_text().splitlines()
    table.write_text("\n".join([*lines[:-1], line]))
    with pytest.raises(SystemExit) as stopped:
        tool("train").main(
            [
                *(str(config), "--work-dir", str(tmp_path)),
                *("--cfg-options", "train_dataloader.dataset.ann_file=wrong.csv"),
            ]
        )
    assert str(stopped.value).startswith("train: ")
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
