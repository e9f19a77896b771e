"""The gradient of two gloo processes equals that of one process with both images."""

from __future__ import annotations

import dataclasses

import torch
from mmengine.model import MMDistributedDataParallel

from tests.ebm_mmdet.models.toys import batch, build, ebm_cfg
from tests.two_processes import in_two_processes


class SameForEveryTarget:
    """Noise that does not depend on which process a target is in."""

    def __init__(self, noise):
        self.noise = noise
        self.fixed = noise.sample(1, 15, generator=torch.Generator().manual_seed(0))

    def sample(self, n, num_samples, **_):
        return tuple(x.expand(n, *x.shape[1:]) for x in self.fixed)

    def log_prob(self, offsets):
        return self.noise.log_prob(offsets)


def make_model():
    cfg = ebm_cfg(head=dict(standardize=True))
    cfg["energy_head"]["objective"]["beta"] = 0.0
    model = build(cfg).train()
    objective = model.energy_head.objective
    noise = SameForEveryTarget(objective.noise)
    model.energy_head.objective = dataclasses.replace(objective, noise=noise)
    return model


def backward(model, data, wrapped=None):
    losses = (wrapped or model)(**data, mode="loss")
    losses["loss_energy"].backward()
    head = model.energy_head
    return {name: p.grad for name, p in head.named_parameters()} | dict(head.named_buffers())


def pick(data, i):
    return {"inputs": data["inputs"][i : i + 1], "data_samples": data["data_samples"][i : i + 1]}


CASES = [(2, 3), (0, 4), (0, 1)]
"""Ground-truth boxes of the two images; in the last cases one process has none."""


def worker(rank, folder):
    for case, num_items in enumerate(CASES):
        model = make_model()
        wrapped = MMDistributedDataParallel(model, find_unused_parameters=False)
        result = backward(model, pick(batch(model, num_items, training=True), rank), wrapped)
        torch.save(result, f"{folder}/{case}_{rank}.pth")


def test_gradient_of_two_processes_is_that_of_one_with_both_images(tmp_path):
    in_two_processes(worker, tmp_path)
    for case, num_items in enumerate(CASES):
        model = make_model()
        expected = backward(model, batch(model, num_items, training=True))
        assert expected["trunk.0.weight"].abs().sum() > 0
        for rank in range(2):
            found = torch.load(tmp_path / f"{case}_{rank}.pth", weights_only=True)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
