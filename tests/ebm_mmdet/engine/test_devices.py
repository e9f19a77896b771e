"""A device that is not there is refused, with what there is."""

from __future__ import annotations

import pytest
import torch

from ebm_mmdet.engine import usable_device


@pytest.mark.parametrize(("gpus", "usual"), [(0, "cpu"), (2, "cuda:0")])
def test_the_usual_device(monkeypatch, gpus, usual):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert usable_device() == torch.device(usual)
    assert usable_device("cpu") == usable_device(torch.device("cpu")) == torch.device("cpu")
    for index in range(gpus):
        assert usable_device(f"cuda:{index}") == torch.device("cuda", index)
    there = "there are 2 GPUs, the last is 'cuda:1'" if gpus else "torch finds no GPU here"
    with pytest.raises(ValueError, match=f"device='cuda:{gpus}': {there}"):
        usable_device(f"cuda:{gpus}")


@pytest.mark.parametrize("name", ["gpu", "cuda0", "0", ""])
def test_a_name_that_torch_does_not_know(name):
    with pytest.raises(ValueError, match=f"device='{name}'; expected 'cpu'"):
        usable_device(name)
