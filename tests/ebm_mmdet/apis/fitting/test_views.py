"""Which views of the training images are cached."""

from __future__ import annotations

import pytest
import torch

from ebm_mmdet.apis.feature_cache import TrainingView
from ebm_mmdet.apis.fitting.views import Batches


@pytest.mark.parametrize(("gigabytes", "cached"), [(10 * 48 / 2**30, 10), (3 * 48 / 2**30, 0)])
def test_features_are_cached_if_one_version_of_all_fits(clock, gigabytes, cached):
    view = TrainingView(
        (torch.zeros(3, 2, 2),), torch.ones(2, 4), torch.zeros(2).long()
    )  # 48 bytes
    batches = Batches(lambda index: view, range(5), gigabytes * 2**30, 1e9, clock)
    assert len(batches.cache) == cached
    maps, boxes, index, labels = batches.draw(torch.Generator().manual_seed(0))
    assert len(boxes) == len(index) == len(labels) == 2 * len(maps[0])
