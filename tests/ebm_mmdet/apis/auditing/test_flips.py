"""Mirror images in an audit: those of the training, each asked about the mirrored boxes."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from ebm_mmdet.apis.auditing.features import Seen, over_flips
from ebm_mmdet.apis.training_flips import flips_of
from ebm_mmdet.models.flip_mean import mirror, mirror_boxes

SHAPE = (48, 80)
BOXES = torch.tensor([[10.0, 12.0, 40.0, 30.0], [20.0, 8.0, 28.0, 44.0]])
LABELS = torch.tensor([0, 1])


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.randn(1, 3, 12, 20, generator=torch.Generator().manual_seed(1))


def test_every_view_is_asked_about_the_mirrored_boxes(maps):
    class Head:
        def prepare(self, given, input_shape):
            assert input_shape == SHAPE
            return given

    seen = Seen(
        (maps,),
        torch.ones(4),
        SHAPE,
        BOXES,
        torch.ones(2),
        LABELS,
        ("", "vertical"),
        ((mirror(maps, "vertical"),),),
    )
    asked = []

    def ask(feats, boxes, images):
        asked.append((feats[0], boxes))
        return boxes[:, 1] - 1.0

    found = over_flips(seen, BOXES, Head(), ask)
    assert torch.equal(asked[1][0], mirror(maps, "vertical"))
    assert torch.equal(asked[1][1], mirror_boxes(BOXES, "vertical", SHAPE))
    assert found.dtype == torch.float64
    assert found.tolist() == [(11.0 + (48 - 30 - 1)) / 2, (7.0 + (48 - 44 - 1)) / 2]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (None, ("",)),
        (dict(type="RandomFlip", prob=0.5), ("", "horizontal")),
        (
            dict(type="mmdet.RandomFlip", prob=[0.3, 0.3], direction=["diagonal", "horizontal"]),
            ("", "horizontal", "diagonal"),
        ),
    ],
)
def test_flips_are_those_of_the_training(step, expected):
    inner = dict(type="CocoDataset", pipeline=[step] if step else [])
    outer = dict(type="RepeatDataset", times=2, dataset=inner)
    assert flips_of(Config(dict(train_dataloader=dict(dataset=outer)))) == expected
    assert flips_of(Config({})) == ("",)
