"""`split_indices`: parts never overlap, and keep together what belongs together."""

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="ebm_mmdet.regression needs mmdet")

from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_mmdet.regression.datasets import split_indices

PARTS = {"train": 0.6, "val": 0.2, "test": 0.2}


@settings(max_examples=60, deadline=None)
@given(st.integers(15, 400), st.integers(0, 9), st.sampled_from(["random", "blocks", "group"]))
def test_parts_never_overlap_and_cover_everything(num, seed, kind):
    groups = [f"g{i % 15}" for i in range(num)]
    options = {"kind": kind, "parts": PARTS, "seed": seed, "groups": groups, "num_blocks": 10}
    parts = [split_indices(num, part, **options) for part in PARTS]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(num))
    if kind == "group":
        sets = [{groups[i] for i in part} for part in parts]
        assert sum(map(len, sets)) == 15
    if kind == "random":
        assert len(parts[0]) == pytest.approx(0.6 * num, abs=1)
    if kind == "blocks":
        assert sum(int((np.diff(part) > 1).sum()) for part in parts) <= 9


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=80),
    st.integers(0, 9),
    st.sampled_from(["random", "blocks"]),
)
def test_rows_of_one_image_stay_together(numbers, seed, kind):
    """The images are divided as they are if each has one row, in the order of their first rows."""
    names = [f"{number}.png" for number in numbers]
    distinct = list(dict.fromkeys(names))
    options = {"kind": kind, "parts": {"a": 0.5, "b": 0.5}, "seed": seed, "num_blocks": 5}
    if len(distinct) < 5:
        return
    rows = [split_indices(len(names), part, images=names, **options) for part in "ab"]
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(len(names)))
    for part, chosen in zip("ab", rows):
        images = {distinct[i] for i in split_indices(len(distinct), part, **options)}
        assert {names[i] for i in chosen} == images


@pytest.mark.parametrize("kind", ["random", "blocks", "group"])
def test_images_that_do_not_repeat_change_nothing(kind):
    options = {"kind": kind, "groups": [str(i % 7) for i in range(100)], "gap": 1}
    names = [f"{-i}.png" for i in range(100)]
    plain = split_indices(100, "test", **options)
    assert np.array_equal(split_indices(100, "test", images=names, **options), plain)


def test_numbers_count_images_and_not_rows():
    names = [str(i // 2) for i in range(20)]
    parts = {"train": 7, "test": 3}
    assert len(split_indices(20, "train", parts=parts, images=names)) == 14
    with pytest.raises(ValueError, match="11 images, but there are 10"):
        split_indices(20, "train", parts={"train": 11}, images=names)
    with pytest.raises(ValueError, match="3 names of images for 20 rows"):
        split_indices(20, "train", images=names[:3])


def test_numbers_of_images():
    parts = {"train": 10, "val": 2, "test": 10}
    sizes = [len(split_indices(50, part, parts=parts)) for part in parts]
    assert sizes == [10, 2, 10]
    assert len(split_indices(50, "train")) == 40


def test_seeds_differ_and_are_stable():
    first = split_indices(1000, "test", seed=0)
    assert np.array_equal(first, split_indices(1000, "test", seed=0))
    assert not np.array_equal(first, split_indices(1000, "test", seed=1))
    assert first[:5].tolist() == [0, 3, 10, 13, 16]


def test_gap_leaves_out_neighbours_in_time():
    train, test = (
        split_indices(400, part, "blocks", num_blocks=8, gap=3) for part in ("train", "test")
    )
    distance = np.abs(train[:, None] - test).min()
    assert distance > 6
    assert len(train) + len(test) < 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "dev"}, "part 'dev'.*'train'"),
        ({"part": "train", "kind": "luck"}, "kind 'luck'"),
        ({"part": "train", "kind": "group"}, "needs the group"),
        ({"part": "train", "parts": {"train": 0.9, "test": 0.2}}, "add up to 1.1"),
        ({"part": "train", "parts": {"train": 9, "test": 2}}, "11 images, but there are 10"),
        ({"part": "train", "parts": {"train": 0.0}}, "positive"),
        ({"part": "train", "kind": "blocks", "parts": {"train": 3}}, "takes shares"),
        ({"part": "train", "kind": "blocks", "num_blocks": 0}, "num_blocks=0"),
        ({"part": "test", "parts": {"train": 0.99, "test": 0.01}}, "is empty"),
    ],
)
def test_errors_name_the_value(options, message):
    with pytest.raises(ValueError, match=message):
        split_indices(10, **options)
