"""Bounds of intervals in the file of a model."""

from __future__ import annotations

import os

import pytest
import torch

from ebm_mmdet.engine.stored_intervals import store_intervals


@pytest.mark.parametrize("links", [True, False])
def test_a_stored_checkpoint_never_takes_the_place_of_another_one(tmp_path, monkeypatch, links):
    """Nor on a file system without links; half of one is not left behind."""
    torch.save(dict(state_dict={}, meta={}), tmp_path / "best.pth")
    if not links:

        def link(*_):
            raise PermissionError("no links here")

        monkeypatch.setattr(os, "link", link)
    out = tmp_path / "out.pth"
    store_intervals(tmp_path / "best.pth", out, "key", {"a": 1})
    content = out.read_bytes()
    with pytest.raises(FileExistsError, match=r"out\.pth exists and is not overwritten"):
        store_intervals(tmp_path / "best.pth", out, "key", {"a": 2})
    assert out.read_bytes() == content
    assert sorted(each.name for each in tmp_path.iterdir()) == ["best.pth", "out.pth"]
    assert torch.load(out, weights_only=True)["meta"] == {"key": {"a": 1}}
