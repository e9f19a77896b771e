"""Two gloo processes train jointly, and one of them gets only frames without points."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmengine.model import MMDistributedDataParallel

from tests.ebm_mmdet3d.models.sassd_toys import sassd_cfg
from tests.ebm_mmdet3d.models.test_empty_batches3d import batch, build, cfg_of, frames_of
from tests.two_processes import in_two_processes

CASES = {
    "toy": lambda: ("toy", cfg_of("toy", freeze_detector=False)),
    "sassd_paper in the wrapper": lambda: (
        "sassd_paper",
        cfg_of("sassd_paper", freeze_detector=False),
    ),
    "sassd_paper alone": lambda: ("sassd_paper", sassd_cfg()),
}
STEPS = 3


def worker(rank: int, folder: str) -> None:
    for case, (name, cfg) in enumerate(make() for make in CASES.values()):
        model = build(cfg).train()
        wrapped = MMDistributedDataParallel(model, find_unused_parameters=False)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        for step in range(STEPS):
            # By turns, so that every process has been the empty one.
            data = batch(model, frames_of(name, (step % 2 == rank,)), training=True)
            total, _ = model.parse_losses(wrapped(**data, mode="loss"))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        torch.save(dict(model.named_parameters()), f"{folder}/{case}_{rank}.pth")


@pytest.mark.slow
def test_training_goes_on_and_parameters_stay_equal(tmp_path):
    in_two_processes(worker, tmp_path)
    for case, (_, cfg) in enumerate(make() for make in CASES.values()):
        before = dict(build(cfg).named_parameters())
        first, second = (
            torch.load(tmp_path / f"{case}_{rank}.pth", weights_only=True) for rank in range(2)
        )
        assert first.keys() == second.keys() == before.keys()
        for name, value in first.items():
            assert torch.isfinite(value).all(), name
            assert torch.equal(value, second[name]), name
        assert any(not torch.equal(value, before[name]) for name, value in first.items())
