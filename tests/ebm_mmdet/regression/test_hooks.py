import math
import sys
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import DATASETS, HOOKS, MODELS
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from ebm_mmdet.regression import RegressionDataSample, TargetError, hooks, timm_backbone
from ebm_mmdet.regression.target_codec import TargetCodec
from tests.ebm_mmdet.regression.models import (
    BACKBONE,
    PREPROCESSOR,
    WIDTH,
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
        with pytest.raises(ValueError, match="labels of the test set"):
            hook.before_test(runner_with(model, test_dataloader=validation.dataloader))


def test_a_number_without_a_density_may_be_compared_with_any_label():
    hook = HOOKS.build({"type": "FitTargetCodecHook"})
    loader = SimpleNamespace(dataset=of_labels(min=[-5.0], max=[1e3]))
    hook.before_test(runner_with(build_regressor("direct"), test_dataloader=loader))
    with pytest.raises(ValueError, match="labels of the test set"):
        hook.before_test(runner_with(build_regressor("mixture"), test_dataloader=loader))


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


PERIODS = {
    "the same": ([360.0], (360,), True),
    "none in both": (None, (None,), True),
    "none of the data": ([360.0], (None,), False),
    "none of the model": (None, (360.0,), False),
    "of another length": ([180.0], (360.0,), False),
    "not declared": ([360.0], None, False),
}


@pytest.mark.parametrize("of", ["training", "validation", "test", "validation alone"])
@pytest.mark.parametrize(("model", "data", "agree"), PERIODS.values(), ids=PERIODS)
def test_an_angle_is_one_to_the_model_and_to_the_data(model, data, agree, of):
    """The other way round, an error of 2 degrees would be one of 358."""
    hook = HOOKS.build({"type": "FitTargetCodecHook"})
    ranges = [(0.0, model[0] if model else 360.0)]
    regressor = build_regressor("ebm")
    regressor.head.codec = TargetCodec(ranges=ranges, periods=model)
    target = {"ranges": ranges, **({} if data is None else {"periods": data})}
    declared = SimpleNamespace(metainfo={"target": target}, target_statistics=lambda: STATISTICS)
    wrapped = SimpleNamespace(metainfo={}, dataset=declared)
    plain = SimpleNamespace(target_statistics=lambda: STATISTICS)
    datasets = (wrapped, plain) if of == "training" else (plain, wrapped)
    loader = SimpleNamespace(dataset=datasets[1])
    runner = runner_with(
        regressor,
        dataset=datasets[0],
        val_loop=SimpleNamespace(dataloader=loader),
        val_dataloader=loader,
        test_dataloader=loader,
    )
    call = {"test": hook.before_test, "validation alone": hook.before_val}.get(
        of, hook.before_train
    )
    if agree:
        call(runner)
    else:
        name = of.partition(" ")[0]
        with pytest.raises(ValueError, match=f"periods=.* of the {name} set, but periods=.* codec"):
            call(runner)


def test_labels_are_looked_at_once_in_a_training():
    """A validation after each epoch has the data set that was checked before the first."""
    hook = HOOKS.build({"type": "FitTargetCodecHook"})
    asked = []
    dataset = SimpleNamespace(target_statistics=lambda: asked.append(1) or STATISTICS)
    loader = SimpleNamespace(dataset=dataset)
    runner = runner_with(
        build_regressor("ebm"), val_loop=SimpleNamespace(dataloader=loader), val_dataloader=loader
    )
    hook.before_train(runner)
    for _ in range(3):
        hook.before_val(runner)
    assert len(asked) == 1


@pytest.fixture
def said(monkeypatch):
    """What the hooks log."""
    lines = []
    monkeypatch.setattr(hooks, "print_log", lambda text, *_, **__: lines.append(text))
    return lines


@pytest.mark.parametrize(
    ("head", "integer", "dequantise", "warns"),
    [
        ("ebm", True, False, True),
        ("mixture", True, False, True),
        ("ebm", True, True, False),
        ("ebm", False, False, False),
        ("direct", True, False, False),  # has no likelihood that could mean nothing
    ],
)
def test_integers_without_cells_are_reported_once(head, integer, dequantise, warns, said):
    hook = HOOKS.build({"type": "FitTargetCodecHook"})
    model = build_regressor(head)
    model.head.codec = TargetCodec(ranges=[(1, 40)], dequantise=dequantise)
    model.second = build_regressor(head).head
    model.second.codec = model.head.codec
    dataset = SimpleNamespace(
        metainfo={"target": {"integer": integer}}, target_statistics=lambda: STATISTICS
    )
    hook.before_train(runner_with(model, dataset=dataset))
    assert sum("dequantise=True" in line for line in said) == warns


def loop(by_epoch: bool):
    """A loop of mmengine, without anything to loop over."""
    kind = EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop
    return kind.__new__(kind)


COUNTING = [
    ({"type": "ProposalWarmUpHook", "epochs": 2}, "ebm_mdn", r"epochs=2.*epochs=0"),
    ({"type": "ProposalWarmUpHook", "epochs": 0}, "ebm_mdn", None),
    ({"type": "ProposalWarmUpHook", "epochs": 2}, "direct", None),
    ({"type": "FreezeBackboneHook", "until": 3}, "direct", r"until=3.*until=0"),
    ({"type": "FreezeBackboneHook", "until": 0}, "direct", None),
]


@pytest.mark.parametrize(("cfg", "head", "message"), COUNTING)
def test_epochs_are_not_counted_in_a_loop_without_them(cfg, head, message):
    hook, model = HOOKS.build(cfg), build_regressor(head)
    hook.before_train(runner_with(model, train_loop=loop(by_epoch=True)))
    runner = runner_with(model, train_loop=loop(by_epoch=False))
    if message is None:
        hook.before_train(runner)
    else:
        with pytest.raises(ValueError, match=f"{message}.*remove the hook") as raised:
            hook.before_train(runner)
        assert "IterBasedTrainLoop" in str(raised.value)
        assert "max_epochs" in str(raised.value)


@pytest.mark.parametrize(
    ("cfg", "head", "of"),
    [
        ({"type": "ProposalWarmUpHook", "epochs": 2}, "ebm_mdn", "epochs=2"),
        ({"type": "ProposalWarmUpHook", "epochs": 2}, "direct", None),
        ({"type": "FreezeBackboneHook", "until": 2}, "direct", "until=2"),
    ],
)
def test_a_schedule_that_ends_before_the_hook_is_reported(cfg, head, of, said):
    """As whoever shortens a recipe of 75 epochs to ten leaves its backbone fixed to the end."""
    for epochs in (1, 2, 3):
        said.clear()
        train_loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
        train_loop._max_epochs = epochs
        HOOKS.build(cfg).before_train(runner_with(build_regressor(head), train_loop=train_loop))
        assert len(said) == (of is not None and epochs <= 2)
        if said:
            assert f"{of}), and the training has {epochs} epochs" in said[0]


def test_a_run_by_iterations_stops_before_it_begins(tmp_path):
    cfg = run_config(tmp_path, regressor_config("ebm_mdn"))
    cfg["train_cfg"] = {"type": "IterBasedTrainLoop", "max_iters": 4}
    with pytest.raises(ValueError, match="ProposalWarmUpHook.* counts epochs"):
        Runner.from_cfg(Config(cfg)).train()


class Plain(nn.Module):
    """A backbone that is no module of mmengine."""

    def __init__(self, inner=None, **attributes):
        super().__init__()
        self.layer = nn.Conv2d(3, WIDTH, 3)
        self.inner = inner
        vars(self).update(attributes)


PRETRAINED = {"type": "Pretrained", "checkpoint": "x.pth"}
BACKBONES = {
    "random": (lambda: MODELS.build(BACKBONE), True),
    "init_cfg": (lambda: MODELS.build({**BACKBONE, "init_cfg": PRETRAINED}), False),
    "init_cfgs": (lambda: MODELS.build({**BACKBONE, "init_cfg": [PRETRAINED]}), False),
    "plain": (Plain, True),
    "plain, with weights": (lambda: Plain(pretrained=True), False),
    "inside of a plain one": (lambda: Plain(Plain(pretrained=True)), False),
}


@pytest.mark.parametrize(("make", "warns"), BACKBONES.values(), ids=BACKBONES)
def test_only_random_backbones_are_reported(make, warns, said):
    model = build_regressor("direct")
    model.backbone = make()
    hook = HOOKS.build({"type": "FreezeBackboneHook", "until": 1})
    for _ in range(2):
        hook.before_train_epoch(runner_with(model))
    assert [line for line in said if "random weights" in line] == said
    assert len(said) == warns
    assert not any(p.requires_grad for p in model.backbone.parameters())
    said.clear()
    hook = HOOKS.build({"type": "FreezeBackboneHook", "until": 1})
    hook.before_train_epoch(runner_with(model, _load_from="x.pth"))
    model.init_cfg = PRETRAINED
    HOOKS.build({"type": "FreezeBackboneHook"}).before_train_epoch(runner_with(model))
    assert not said


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_backbone_of_timm_says_whether_it_was_loaded(pretrained, monkeypatch, said):
    asked = []

    def create_model(name, **kwargs):
        asked.append(kwargs["pretrained"])
        return nn.Conv2d(3, WIDTH, 3)

    monkeypatch.setattr(timm_backbone, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    model = build_regressor("direct")
    model.backbone = MODELS.build(
        {"type": "TimmBackbone", "model_name": "x", "pretrained": pretrained}
    )
    HOOKS.build({"type": "FreezeBackboneHook"}).before_train_epoch(runner_with(model))
    assert asked == [pretrained]
    assert len(said) == (not pretrained)


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


def run_config(tmp_path, model) -> dict:
    """Two epochs with all hooks."""
    loader = {
        "batch_size": 3,
        "num_workers": 0,
        "dataset": {"type": "Numbers"},
        "sampler": {"type": "DefaultSampler", "shuffle": True},
    }
    return {
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
        "experiment_name": tmp_path.name,
        "log_level": "ERROR",
    }


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
    cfg = run_config(tmp_path, model)
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
        "experiment_name": f"{tmp_path.name}_2",
    }
    again = Runner.from_cfg(Config(cfg))
    again.train()
    assert again.epoch == 3
    assert all(p.requires_grad for p in again.model.parameters())
    assert (tmp_path / "epoch_3.pth").exists()
