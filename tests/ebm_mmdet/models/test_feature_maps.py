"""Which maps are chosen, and what is said about a choice that does not fit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm_mmdet.models.feature_maps import (
    choose_levels,
    fill_in_levels,
    measure_maps,
)


def maps(*strides, channels=16, size=256):
    channels = [channels] * len(strides) if isinstance(channels, int) else channels
    shapes = [(c, -(-size // s)) for c, s in zip(channels, strides)]
    return measure_maps([torch.zeros(1, c, n, n) for c, n in shapes], (size, size))


@pytest.mark.parametrize(
    ("strides", "levels"),
    [
        ((4, 8, 16, 32, 64), [0, 1, 2, 3]),
        ((8, 16, 32, 64, 128), [0, 1, 2]),
        ((32, 16, 8), [2, 1, 0]),  # YOLOv3 gives coarse maps first
        ((4, 4), [1]),  # the stages of an hourglass: the last one is refined most
        ((8, 8, 16), [1, 2]),
        ((64, 128), [0]),
        ((16,), [0]),
    ],
)
def test_levels_are_chosen_fine_to_coarse(strides, levels):
    assert choose_levels(maps(*strides)) == levels


@given(st.integers(64, 400), st.integers(64, 400), st.sampled_from([2, 4, 8, 16, 32]))
def test_strides_are_found_whatever_the_rounding(height, width, stride):
    for up in (True, False):
        size = [max(-(-n // stride) if up else n // stride, 1) for n in (height, width)]
        if min(height, width) >= 4 * stride:
            (found,) = measure_maps([torch.empty(1, 1, *size)], (height, width))
            assert found.stride == stride


def test_a_map_with_two_strides_or_none_is_never_chosen():
    image = (256, 256)
    odd = [torch.zeros(1, 4, 64, 16), torch.zeros(1, 4), torch.zeros(1, 4, 32, 32)]
    found = measure_maps(odd, image)
    assert [each.stride for each in found] == [0, 0, 8]
    assert choose_levels(found) == [2]
    with pytest.raises(ValueError, match=r"(?s)one stride for both axes:\n.* \?  .*feature_source"):
        choose_levels(found[:2])


def test_what_is_left_out_is_filled_in():
    head = fill_in_levels({"type": "EBMBBoxHead"}, maps(32, 16, 8, 4, channels=24))
    found = dict(feature_levels=[3, 2, 1, 0], strides=[4, 8, 16, 32], in_channels=24)
    assert head == dict(type="EBMBBoxHead", finest_scale=56, **found)
    concat = fill_in_levels({}, maps(8, 16, channels=[8, 16]))
    assert concat["in_channels"] == [8, 16]
    assert concat["level_rule"] == "concat"
    assert concat["finest_scale"] == 112


def test_given_values_stay():
    given_values = dict(strides=[16, 8], level_rule="concat", finest_scale=10)
    head = fill_in_levels(given_values, maps(8, 16, 32))
    assert head == dict(given_values, feature_levels=[1, 0], in_channels=16)
    # The first levels, if they fit, as before: a second map of stride 4 may follow the neck's.
    assert fill_in_levels(dict(strides=[4, 8]), maps(4, 8, 16, 4))["feature_levels"] == [0, 1]


def test_given_channels_choose_among_maps():
    found = maps(4, 8, 16, 4, channels=[16, 16, 16, 8])
    assert fill_in_levels(dict(in_channels=16), found)["feature_levels"] == [0, 1, 2]
    assert fill_in_levels({}, found)["feature_levels"] == [3, 1, 2]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (dict(strides=[4, 8]), r"strides=\[4, 8\]"),
        (dict(feature_levels=[0, 3]), r"feature_levels=\(0, 3\) but the detector gives 3 maps"),
        (dict(feature_levels=[-1]), r"feature_levels=\(-1,\) but"),
        (dict(in_channels=256), r"level 0 .* has 16 channels, expected 256"),
        (dict(strides=[8, 16], feature_levels=[0, 2]), r"level 2 .* has stride 32, expected 16"),
    ],
)
def test_one_message_has_all_maps_and_lines_that_fit(head, message):
    found = maps(8, 16, 32)
    with pytest.raises(ValueError, match=message) as raised:
        fill_in_levels(head, found)
    text = str(raised.value)
    for row in ("0       8        16  32 x 32", "2      32        16  8 x 8"):
        assert row in text
    lines = "".join(text.rpartition(":\n")[2].split("\n"))
    pasted = eval(f"dict({lines})")
    assert pasted == dict(in_channels=16, strides=[8, 16, 32], feature_levels=[0, 1, 2])
    assert fill_in_levels(pasted, found) == pasted
