"""Arguments of energy heads: each class shows all of them, and an unknown one is named."""

from __future__ import annotations

import inspect
import pickle

import pytest
from mmdet.registry import MODELS

from ebm_mmdet.apis.fitting.rivals import BoxRegressor
from ebm_mmdet.models import EBMBBoxHead, EnergyHead, ProposalEBMBBoxHead
from tests.ebm_mmdet.models.toys import energy_head_cfg

BASE = {"act_cfg", "class_agnostic", "min_box_size", "loss_weight", "init_cfg"}


@pytest.mark.parametrize("cls", [EnergyHead, EBMBBoxHead, ProposalEBMBBoxHead])
def test_a_signature_has_the_arguments_of_the_base_too(cls):
    parameters = inspect.signature(cls).parameters
    assert {*BASE, "num_classes", "objective", "gradient_precision"} <= set(parameters)
    assert all(p.kind is not p.VAR_KEYWORD for p in parameters.values())
    assert parameters["loss_weight"].default == 1.0


def test_the_arguments_of_each_class_on_the_way_come_first():
    own = ["proposal", "reference_noise", "objective"]
    names = list(inspect.signature(ProposalEBMBBoxHead).parameters)
    assert names[:3] == own
    assert names.index("strides") < names.index("act_cfg")
    assert len(names) == len(set(names))
    # Without **kwargs a class takes what it says, and no more.
    assert list(inspect.signature(BoxRegressor).parameters) == [
        "energy_head",
        "num_boxes",
        "distance",
    ]


def test_a_subclass_may_change_a_default_and_have_no_init():
    class Wide(EBMBBoxHead):
        def __init__(self, *, fc_channels=(8,), min_box_size: float = 4.0, **kwargs) -> None:
            super().__init__(fc_channels=fc_channels, min_box_size=min_box_size, **kwargs)

    class Same(Wide):
        pass

    for cls in (Wide, Same):
        parameters = inspect.signature(cls).parameters
        assert parameters["min_box_size"].default == 4.0
        assert parameters["strides"].default == (4, 8, 16, 32)
    cfg = {key: value for key, value in energy_head_cfg().items() if key != "type"}
    assert Wide(**{**cfg, "fc_channels": (8,)}).min_box_size == 4.0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fc_channel", "has no argument 'fc_channel'; did you mean 'fc_channels'?"),
        ("los_weight", "has no argument 'los_weight'; did you mean 'loss_weight'?"),
        ("colour", "has no argument 'colour'; it has num_classes, "),
    ],
)
def test_an_unknown_argument_is_named_with_the_remedy(name, said):
    with pytest.raises(TypeError) as raised:
        MODELS.build({**energy_head_cfg(), name: 1})
    assert f"EBMBBoxHead {said}" in str(raised.value)
    assert "gradient_precision" in str(raised.value)


def test_an_argument_with_another_name_today_still_says_so():
    with pytest.raises(ValueError, match="min_gt_size is called min_box_size=2 now"):
        MODELS.build({**energy_head_cfg(), "min_gt_size": 2})


def test_a_head_can_be_pickled():
    head = MODELS.build(energy_head_cfg())
    assert type(pickle.loads(pickle.dumps(head))) is EBMBBoxHead
