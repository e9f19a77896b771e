import math
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import DATASETS, HOOKS
from mmengine.config import Config
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from ebm_mmdet.regression import RegressionDataSample, TargetError
from tests.ebm_mmdet.regression.models import (
    BACKBONE,
    PREPROCESSOR,
    build_regressor,
    regressor_config,
)

STATISTICS = {"mean": [20.0], "std": [5.0]}


class Numbers(Dataset):
    """Grey images whose brightness is their label."""

    metainfo: dict = {}  # noqa: RUF012

    def full_init(self):
        pass

    def __len__(self):
        return 8

    def __getitem__(self, index):
        sample = RegressionDataSample(metainfo={"img_path": f"{index}.png", "sample_idx": index})
        sample.set_gt_target([2 + 4 * index])
        image = torch.full((3, 16, 16), 25 * index, dtype=torch.uint8)
        return {"inputs": image, "data_samples": sample}

    def target_statistics(self):
        return STATISTICS


@pytest.fixture(autouse=True)
def _registered():
    DATASETS.register_module(module=Numbers, force=True)
    yield
    DATASETS.module_dict.pop("Numbers")


def runner_with(model, epoch=0, dataset=None, **kwargs):
    loader = SimpleNamespace(dataset=dataset or Numbers())
    fields = {"_load_from": None, "_resume": False, "train_dataloader": loader, "val_loop": None}
    fields |= kwargs
    return SimpleNamespace(model=model, epoch=epoch, **fields)


def test_codec_is_fitted_once():
    hook = HOOKS.build({"type": "FitTargetCodecHook"})
    model = build_regressor("ebm")
    hook.before_train(runner_with(model, dataset=SimpleNamespace(dataset=Numbers())))
    codec = model.head.codec
    assert (float(codec.mean), float(codec.std)) == (20.0, 5.0)
    model.load_state_dict(build_fitted(7.0))
    hook.before_train(runner_with(model))
    assert float(codec.mean) == 7.0, "a checkpoint's statistics were replaced"
    given = build_regressor("ebm", "pose")
    hook.before_train(runner_with(given))
    assert given.head.codec.mean.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="target_statistics"):
        hook.before_train(runner_with(build_regressor("ebm"), dataset=SimpleNamespace()))


def of_labels(**statistics):
    """A data set that has these statistics."""
    return SimpleNamespace(target_statistics=lambda: {**STATISTICS, **statistics})


@pytest.mark.parametrize(
    ("least", "greatest"), [(-0.5, 30.0), (1.0, 1e3), (float("nan"), float("nan")), (1.0, math.inf)]
)
def test_labels_outside_the_ranges_stop_before_training(least, greatest):
    """Of both sets, on any device, and also where mean and std were given."""
    hook = HOOKS.build({"type": "FitTargetCodecHook"})
    wrong = of_labels(min=[least], max=[greatest])
    for model in (build_regressor("ebm"), fitted()):
        with pytest.raises(ValueError, match=r"labels of the training set .* Widen `ranges`"):
            hook.before_train(runner_with(model, dataset=wrong))
        validation = SimpleNamespace(dataloader=SimpleNamespace(dataset=wrong))
        with pytest.raises(ValueError, match="labels of the validation set"):
            hook.before_train(runner_with(model, val_loop=validation))


def test_ends_of_ranges_angles_and_unlabelled_validation_are_sound():
    hook = HOOKS.build({"type": "FitTargetCodecHook"})

    def unlabelled():
        raise TargetError("no image is labelled")

    validation = SimpleNamespace(
        dataloader=SimpleNamespace(dataset=SimpleNamespace(target_statistics=unlabelled))
    )
    model = build_regressor("ebm")
    low, high = model.head.codec.label_ranges[0].tolist()
    dataset = of_labels(min=[low], max=[high])
    hook.before_train(runner_with(model, dataset=dataset, val_loop=validation))
    assert model.head.codec.fitted
    angles = of_labels(min=[-700.0], max=[700.0])
    hook.before_train(runner_with(build_regressor("ebm", "angle"), dataset=angles))
    with pytest.raises(ValueError, match="one number for each"):
        hook.before_train(runner_with(build_regressor("ebm", "pose"), dataset=dataset))


def fitted():
    model = build_regressor("ebm")
    model.load_state_dict(build_fitted(7.0))
    return model


def build_fitted(mean):
    model = build_regressor("ebm")
    model.head.codec.fit([mean], [2.0])
    return model.state_dict()


def test_warm_up_is_a_matter_of_the_epoch():
    hook = HOOKS.build({"type": "ProposalWarmUpHook", "epochs": 2})
    model = build_regressor("ebm_mdn")
    for epoch, expected in ((0, True), (1, True), (2, False), (1, True), (5, False)):
        hook.before_train_epoch(runner_with(model, epoch))
        assert model.head.proposal_warm_up is expected
    with pytest.raises(ValueError, match="epochs"):
        HOOKS.build({"type": "ProposalWarmUpHook", "epochs": -1})


def test_frozen_backbone_is_released():
    hook = HOOKS.build({"type": "FreezeBackboneHook", "until": 1})
    model = build_regressor("ebm", backbone={**BACKBONE, "frozen_stages": 0})
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    assert not all(before.values())
    hook.before_train_epoch(runner_with(model, 0, _load_from="x.pth"))
    model.train()
    hook.before_train_iter(runner_with(model), 0)
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert all(p.requires_grad for p in model.head.parameters())
    norms = [m for m in model.backbone.modules() if isinstance(m, _BatchNorm)]
    assert norms
    assert not any(m.training for m in norms)
    hook.before_train_epoch(runner_with(model, 1))
    model.train()
    hook.before_train_iter(runner_with(model), 0)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before
    with pytest.raises(ValueError, match="until"):
        HOOKS.build({"type": "FreezeBackboneHook", "until": -1})


@pytest.mark.parametrize("kind", ["ebm_mdn", "teacher"])
def test_a_run_from_start_to_end_and_its_continuation(kind, tmp_path):
    model = regressor_config("ebm_mdn")
    if kind == "teacher":
        model = {
            "type": "TeacherRegressor",
            "data_preprocessor": PREPROCESSOR,
            "student": regressor_config("mixture"),
            "teacher": regressor_config("ebm"),
            "num_noise": 16,
        }
    loader = {
        "batch_size": 3,
        "num_workers": 0,
        "dataset": {"type": "Numbers"},
        "sampler": {"type": "DefaultSampler", "shuffle": True},
    }
    cfg = {
        "model": model,
        "work_dir": str(tmp_path),
        "train_dataloader": loader,
        "train_cfg": {"by_epoch": True, "max_epochs": 2},
        "optim_wrapper": {"optimizer": {"type": "Adam", "lr": 1e-3}},
        "custom_hooks": [
            {"type": "FitTargetCodecHook"},
            {"type": "ProposalWarmUpHook", "epochs": 1},
            {"type": "FreezeBackboneHook", "until": 1},
        ],
        "default_scope": "mmdet",
        "experiment_name": f"{kind}_{tmp_path.name}",
        "log_level": "ERROR",
    }
    if kind == "teacher":
        optimizer = cfg.pop("optim_wrapper")
        cfg["optim_wrapper"] = {
            "constructor": "TeacherOptimWrapperConstructor",
            "student": optimizer,
            "teacher": optimizer,
        }
    Runner.from_cfg(Config(cfg)).train()
    checkpoint = tmp_path / "epoch_2.pth"
    state = torch.load(checkpoint, weights_only=False)["state_dict"]
    means = {k: v for k, v in state.items() if k.endswith("codec.mean")}
    assert means
    assert all(v.tolist() == STATISTICS["mean"] for v in means.values())
    cfg |= {
        "resume": True,
        "load_from": str(checkpoint),
        "train_cfg": {"by_epoch": True, "max_epochs": 3},
        "experiment_name": f"{kind}_{tmp_path.name}_2",
    }
    again = Runner.from_cfg(Config(cfg))
    again.train()
    assert again.epoch == 3
    assert all(p.requires_grad for p in again.model.parameters())
    assert (tmp_path / "epoch_3.pth").exists()
