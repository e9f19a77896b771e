"""`fit` and `add-head` on a detector of mmdet3d: interrupted, continued, refused where it must."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest
import torch

if not find_spec("mmdet3d"):
    pytest.skip("3D needs mmdet3d", allow_module_level=True)

import numpy as np
from mmdet3d.apis import init_model
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ebm_mmdet import commands
from ebm_mmdet.apis import add_energy_head, fit
from ebm_mmdet.apis.fitting.data import split_data
from ebm_mmdet.apis.fitting.training import HeadTraining
from ebm_mmdet.files import read_json
from ebm_mmdet3d.apis import add_energy_head_3d, fit_3d, write_energy_config_3d
from ebm_mmdet3d.apis.fitting.frames import Frames
from ebm_mmdet3d.apis.fitting.matching import HEADINGS
from ebm_mmdet3d.apis.fitting.rivals import BoxRegressor3D
from ebm_mmdet3d.apis.head_settings import LEAST, MOST, spread_3d
from tests.ebm_mmdet3d.apis.lidar_project import SCENE, make_lidar_project
from tests.ebm_mmdet3d.models.toys import boxes, head_cfg

QUICK = dict(minutes=100, max_iters=3, device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_lidar_project(tmp_path_factory.mktemp("user") / "my work")


@pytest.fixture
def project(made, monkeypatch):
    monkeypatch.chdir(made)
    init_default_scope("mmdet3d")
    return made


@pytest.mark.slow
def test_interrupted_continued_and_complete(project, monkeypatch, capsys):
    real, steps = HeadTraining._step, []

    def interrupted(self, *arguments):
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(1)
        return real(self, *arguments)

    monkeypatch.setattr(HeadTraining, "_step", interrupted)
    command = ["fit", "my_lidar.py", "epoch_40.pth", "--minutes", "100", "--max-iters", "3"]
    assert commands.main([*command, "--device", "cpu"]) == 130
    folder = project / "my_lidar_fit"
    assert torch.load(folder / "training.pth", weights_only=True)["iteration"] == 2
    assert "4 frames" in capsys.readouterr().out

    monkeypatch.setattr(HeadTraining, "_step", lambda *a: steps.append(1) or real(*a))
    lines: list[str] = []
    result = fit_3d("my_lidar.py", "epoch_40.pth", **QUICK, say=lines.append)
    assert len(steps) == 3  # two of the first call, one of this one
    assert "going on in my_lidar_fit" in lines
    assert [row["method"] for row in result["rows"]][0::3] == ["detector", "energy head"]
    assert set(HEADINGS) < set(result["rows"][0])
    assert result["pays"] is False  # three frames say nothing
    page = (folder / "page.md").read_text()
    assert page.startswith(f"# {result['sentence']}")
    for text in ("BEV AP90", "ms per frame", "pictures/1.png"):
        assert text in page
    assert (folder / "pictures" / "1.png").stat().st_size > 5000

    # The checkpoint loads by mmdet3d's own function, and the detector is the user's.
    model = init_model(result["config"], result["checkpoint"], device="cpu")
    plain = torch.load("epoch_40.pth", weights_only=True)["state_dict"]
    inside = model.detector.state_dict()
    assert all(torch.equal(inside[key], value) for key, value in plain.items())
    assert model.min_score == result["tuned"]["min_score"]

    before = (folder / "result.json").read_bytes()
    assert fit_3d("my_lidar.py", "epoch_40.pth", **QUICK) == result
    with pytest.raises(FileExistsError, match="another minutes"):
        fit_3d("my_lidar.py", "epoch_40.pth", **{**QUICK, "minutes": 1})
    assert (folder / "result.json").read_bytes() == before
    assert len(read_json(folder / "residuals.json")["residuals"]) >= 0


def test_the_file_is_the_config_and_is_not_overwritten(project, capsys):
    out = ["--out", "heads/one.py", "--max-iters", "50"]
    assert commands.main(["add-head", "my_lidar.py", "epoch_40.pth", *out]) == 0
    cfg = Config.fromfile("heads/one.py")
    made = add_energy_head_3d(Config.fromfile("my_lidar.py"), "epoch_40.pth", 50)
    head, expected = cfg.model.energy_head, made.model.energy_head
    assert head == expected
    assert (head.in_channels, head.origin, head.cell_size) == (24, [0.0, -7.68], 0.32)
    assert (head.pixel_offset, cfg.model.feature_source) == (0.25, "neck")
    assert head.objective.noise.sigmas[1][0] == 0.125  # the paper's
    assert cfg.model.refiner == made.model.refiner
    assert cfg.val_evaluator.type == "EBMKittiMetric"
    assert cfg.train_cfg.max_iters == 50
    text = (project / "heads" / "one.py").read_text()
    assert max(map(len, text.splitlines())) <= 100
    for name in ("num_classes", "origin", "cell_size", "pixel_offset", "sigmas", "step_size"):
        assert re.search(rf"{name}=[^\n]*#|#[^\n]*\n\s*{name}=", text), name
    assert commands.main(["add-head", "my_lidar.py", "epoch_40.pth", *out]) == 1
    assert "is not overwritten" in capsys.readouterr().err
    assert (project / "heads" / "one.py").read_text() == text


def test_what_cannot_work_is_said_before_any_work(project, capsys):
    (project / "few.py").write_text(
        "_base_ = './my_lidar.py'\ntrain_dataloader = dict(dataset=dict(indices=1))\n"
    )
    with pytest.raises(ValueError, match="has 1 frame with boxes; at least 2"):
        fit_3d("few.py", "epoch_40.pth", **QUICK)
    assert not (project / "few_fit").exists()
    (project / "other.py").write_text("default_scope = 'mmdet'\nmodel = dict(type='FCOS')\n")
    with pytest.raises(ValueError, match="not the config of a detector of mmdet3d"):
        write_energy_config_3d("other.py", "x.pth")
    for wrong in (add_energy_head, lambda cfg, _: fit("my_lidar.py", "epoch_40.pth")):
        with pytest.raises(ValueError, match=r"ebm_mmdet3d\.apis"):
            wrong(Config.fromfile("my_lidar.py"), "epoch_40.pth")
    wrong = ["predict", "my_lidar.py", "epoch_40.pth", "a.png", "--out-dir", "out"]
    assert commands.main(wrong) == 1
    assert "predict reads images" in capsys.readouterr().err
    arguments = ["add-head", "my_lidar.py", "x.pth", "--object-size", "9"]
    assert commands.main(arguments) == 1
    assert "--object-size is for images" in capsys.readouterr().err


def test_data_that_is_made_when_it_is_read_and_other_classes(project):
    cfg = add_energy_head_3d(Config.fromfile("my_lidar.py"), "epoch_40.pth")
    cfg.train_dataloader.dataset = dict(
        type="LidarScenesDataset",
        num_scenes=6,
        seed=7,
        scene=SCENE,
        pipeline=[
            dict(type="MergeClasses3D", classes=["Car", "Van"], into=dict(Van="Car")),
            dict(type="Pack3DDetInputs", keys=["points", "gt_bboxes_3d", "gt_labels_3d"]),
        ],
    )
    data = split_data(cfg, 0, Frames())
    assert (data.images, len(data.tune), len(data.rest), len(data.judge)) == (5, 1, 5, 3)
    assert not {*data.tune.indices} & {*data.indices}
    bottom, height = Frames().about_data(data)["bottom_and_height"]
    assert -2.2 < bottom < -1.3
    assert 1.3 < height < 2.2
    truth = data.tune.truth(0)
    assert len(truth.boxes) == len(truth.labels) == len(truth.neutral) > 0
    assert data.tune[0]["inputs"]["points"].shape[1] == 4
    # KITTI's vans are not the detector's class: they count neither way.
    everything = [data.judge.truth(position) for position in range(3)]
    vans = np.concatenate([each.labels == -1 for each in everything])
    assert vans.any()
    assert np.concatenate([each.neutral for each in everything])[vans].all()


def test_the_spread_is_that_of_the_residuals_within_limits():
    generator = torch.Generator().manual_seed(0)
    std = torch.tensor([0.1, 0.2, 0.05, 0.3, 1e-4, 9.0, 0.05])
    found = spread_3d(std * torch.randn(2000, 7, generator=generator))
    place = (0.5 * (0.1**2 + 0.2**2)) ** 0.5
    assert found == pytest.approx([place, place, 0.05, 0.3, LEAST[4], MOST[5], 0.05], rel=0.05)
    assert spread_3d(torch.randn(19, 7)) is None
    with pytest.raises(ValueError, match=r"\(5, 4\); expected \(n, 7\)"):
        spread_3d(torch.zeros(5, 4))


def test_the_regressor_learns_where_the_object_is():
    cfg = Config(dict(head=head_cfg(num_classes=2, fc_channels=[64]))).head
    torch.manual_seed(0)
    regressor = BoxRegressor3D(cfg, num_boxes=64)
    # A map that says where it is read, and one object of each class.
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, 40), torch.linspace(-1, 1, 48), indexing="ij"
    )
    maps = torch.stack([rows, columns, *[torch.zeros(40, 48)] * 6])[None]
    feats = regressor.prepare([maps])
    truth, index, labels = boxes(2), torch.zeros(2, dtype=torch.long), torch.tensor([0, 1])
    optimizer = torch.optim.Adam(regressor.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        loss = regressor.loss(feats, truth, index, labels)["loss_l1"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:3])
    shifted = truth + torch.tensor([0.2, -0.15, 0, 0, 0, 0, 0])
    with torch.no_grad():
        moved = shifted + regressor.offsets(feats, shifted, index, labels)
    assert (moved - truth)[:, :2].norm() < 0.8 * (shifted - truth)[:, :2].norm()
    assert regressor.offsets(feats, truth, index, 1 - labels).shape == (2, 7)
