"""The rivals of an energy head read what it reads."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from ebm_mmdet.apis import add_energy_head
from ebm_mmdet.apis.fitting.kl_regressor import KLRegressor
from ebm_mmdet.apis.fitting.rivals import BoxRegressor
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project


@pytest.mark.parametrize("rival", [BoxRegressor, KLRegressor])
def test_a_rival_has_the_maps_and_the_region_of_the_head(tmp_path, rival):
    """Also where small objects are read on finer maps."""
    project = make_project(tmp_path, ONE_STAGE)
    cfg = Config.fromfile(project / "my_detector.py")
    settings = add_energy_head(cfg, "epoch_12.pth", object_size=20).model.energy_head
    head = rival(settings)
    assert head.region_scale == settings.region_scale == 1.3
    assert list(head.strides) == settings.strides == [4, 8]
    assert list(head.feature_levels) == settings.feature_levels
