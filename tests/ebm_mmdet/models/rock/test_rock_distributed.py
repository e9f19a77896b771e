"""Two gloo processes, one of them without any truth: the gradient is that of one process."""

from __future__ import annotations

import torch
from mmengine.model import MMDistributedDataParallel

from tests.ebm_mmdet.models.rock.rock_toys import TASKS, batch, build, rock_cfg
from tests.two_processes import in_two_processes

IMAGES = 4


def make_model():
    """Batch norms in eval mode: their statistics would be those of a process."""
    model = build(rock_cfg())
    return model.requires_grad_()


def make_data(model) -> dict:
    """Images 2 and 3 have neither boxes nor targets; image 1 has only a depth."""
    data = batch(model, (2, 1, 0, 0), training=True)
    for i, sample in enumerate(data["data_samples"]):
        for name in TASKS:
            if i >= 2 or (i == 1 and name != "depth"):
                delattr(sample, f"gt_{name}")
    return data


def backward(model, inputs, samples, wrapped=None) -> dict:
    losses = (wrapped or model)(inputs, samples, mode="loss")
    sum(losses.values()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def worker(rank, folder):
    model = make_model()
    wrapped = MMDistributedDataParallel(model, find_unused_parameters=False)
    data = make_data(model)
    half = slice(0, 2) if rank == 0 else slice(2, 4)
    for _ in range(2):  # the second step fails if a parameter had no gradient in the first
        model.zero_grad()
        found = backward(model, data["inputs"][half], data["data_samples"][half], wrapped)
    torch.save(found, f"{folder}/{rank}.pth")


def test_the_gradient_of_two_processes_is_that_of_one(tmp_path):
    in_two_processes(worker, tmp_path)
    model = make_model()
    data = make_data(model)
    expected = backward(model, data["inputs"], data["data_samples"])
    assert all(value is not None for value in expected.values())
    assert expected["block.tasks.scene.features.weight"].any()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
