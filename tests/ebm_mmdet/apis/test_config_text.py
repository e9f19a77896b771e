"""Settings as the text of a config file."""

from __future__ import annotations

import pytest

from ebm_mmdet.apis.config_text import Noted, render, type_name


@pytest.mark.parametrize(
    "value",
    [
        {"./data/": "s3://x/", "lambda": 1},
        {0: "a", 1: {"b": (1,)}},
        {"backbone.layer1": 2, "neck": [{"a b": None}]},
        {},
        {f"a key {k}": "x" * 30 for k in range(5)},
    ],
)
def test_a_dictionary_with_any_keys_is_read_as_it_was(value):
    """Such as the path_mapping of a backend, or the layers of a hook."""
    read: dict = {}
    exec(render(dict(settings=Noted(value, "where it is from"))), read)
    assert read["settings"] == value


def test_types_are_named_alike_as_text_and_as_classes():
    class RandomFlip: ...

    for kind in ("RandomFlip", "mmdet.RandomFlip", RandomFlip):
        assert type_name(dict(type=kind)) == "RandomFlip"
