"""A detector whose errors are known, as a user has it in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.ebm_mmdet.apis.noisy_oracle import CLASSES, CONFIG, NoisyOracle


@pytest.fixture(scope="module")
def oracle(tmp_path_factory) -> Path:
    """A folder with configs of an oracle on two sets of images, and its weights."""
    folder = tmp_path_factory.mktemp("user") / "my work"
    folder.mkdir()
    for name, seed in (("calibration", 1), ("test", 2)):
        (folder / f"{name}.py").write_text(CONFIG.format(seed=seed))
    state = NoisyOracle().state_dict()
    meta = dict(dataset_meta=dict(classes=CLASSES), epoch=3)
    torch.save(dict(state_dict=state, meta=meta, optimizer=dict(lr=1.0)), folder / "best.pth")
    return folder
