"""Hooks of image regression: statistics of labels, warm-up of proposals, frozen backbones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import PretrainedInit, is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .datasets.target_space import TargetError
from .heads.regression_head import RegressionHead
from .label_check import check_extremes
from .overlap_check import report_overlap
from .target_codec import TargetCodec

__all__ = ["FitTargetCodecHook", "FreezeBackboneHook", "ProposalWarmUpHook"]


@HOOKS.register_module()
class FitTargetCodecHook(Hook):
    """Standardise labels by the mean and standard deviation of the training labels, once.

    Before training starts, every codec of the model without statistics from its config gets those
    of ``target_statistics()`` of the training set. They are saved in the checkpoint, and a resumed
    or fine-tuned model keeps those that it was trained with.

    All labels of the training, validation and test sets have to be finite and inside of the
    codecs' ranges, as far as the data sets have ``target_statistics()`` with ``min`` and ``max``.
    Where the metainfo of a data set has a ``target``, its periods have to be those of the codecs. A
    warning says so if the labels to train on are integers, and a density is trained on them without
    ``dequantise``; and if images are in the training and in the validation set.

    Raises:
        ValueError: a codec needs statistics, and the data set has no ``target_statistics``; a label
            is not finite or outside of a range; periods differ; or student and teacher have
            different statistics.
    """

    def __init__(self) -> None:
        self._checked = False

    def before_train(self, runner: Runner) -> None:
        """Fit the codecs that have not been fitted, and check the labels."""
        self._checked = True
        for module in runner.model.modules():
            if hasattr(module, "share_statistics"):
                module.share_statistics()
        codecs = _modules(runner.model, TargetCodec)
        target = _target(runner.train_dataloader.dataset)
        _check_periods(codecs, target, "the training set")
        if target.get("integer"):
            _warn_of_integers(runner.model)
        dataset = _with_statistics(runner.train_dataloader.dataset)
        if hasattr(dataset, "target_statistics"):
            self._fit(codecs, dataset.target_statistics())
        elif not all(codec.fitted for codec in codecs):
            raise ValueError(
                f"{type(dataset).__name__} has no target_statistics(), which FitTargetCodecHook "
                "needs; set mean and std of the codec in the config, or add the method."
            )
        if runner.val_loop is not None:
            validation = runner.val_loop.dataloader.dataset
            self._check(codecs, validation, "the validation set")
            report_overlap(dataset, _with_statistics(validation))

    def before_val(self, runner: Runner) -> None:
        """Check the labels of a validation without training."""
        if not self._checked:
            codecs = _modules(runner.model, TargetCodec)
            self._check(codecs, runner.val_dataloader.dataset, "the validation set")

    def before_test(self, runner: Runner) -> None:
        """Check the labels of the test set, for which another data set may have been given.

        A number without a density may be compared with any label.
        """
        dataset = runner.test_dataloader.dataset
        _check_periods(_modules(runner.model, TargetCodec), _target(dataset), "the test set")
        heads = filter(_has_density, _modules(runner.model, RegressionHead))
        self._check([head.codec for head in heads], dataset, "the test set")

    @staticmethod
    def _fit(codecs: list[TargetCodec], statistics: dict) -> None:
        for codec in codecs:
            check_extremes(codec, statistics, "the training set")
        new = [codec for codec in codecs if not codec.fitted]
        for codec in new:
            codec.fit(statistics["mean"], statistics["std"])
        if new:
            print_log(
                f"labels are standardised by mean {statistics['mean']} and std "
                f"{statistics['std']} of the training set",
                "current",
            )

    @staticmethod
    def _check(codecs: list[TargetCodec], dataset: object, source: str) -> None:
        _check_periods(codecs, _target(dataset), source)
        dataset = _with_statistics(dataset)
        if not codecs or not hasattr(dataset, "target_statistics"):
            return
        try:
            statistics = dataset.target_statistics()
        except TargetError:  # no image is labelled, and the metrics will say so
            return
        for codec in codecs:
            check_extremes(codec, statistics, source)


@HOOKS.register_module()
class ProposalWarmUpHook(Hook):
    """Train proposals, and students of a teacher, by the labels alone in the first epochs.

        while warming up:   w = 0, v = 1   in   J_NCE + w J_KL + v NLL

    f is trained as ever. A proposal that does not cover the labels yet would teach f little, and
    learn little from it.

    Args:
        epochs: number of epochs; 0 for none.

    Raises:
        ValueError: the number is negative; or, before training, the loop has no epochs to count.
    """

    def __init__(self, epochs: int = 1) -> None:
        if epochs < 0:
            raise ValueError(f"epochs={epochs} must not be negative.")
        self.epochs = epochs

    def before_train(self, runner: Runner) -> None:
        """Refuse a training in which the warm-up would never end."""
        if self.epochs and any(
            hasattr(module, "proposal_warm_up") for module in _modules(runner.model, nn.Module)
        ):
            until = "proposals and students learn from the labels alone to its end"
            _check_epochs(runner, "ProposalWarmUpHook.epochs", self.epochs, until)

    def before_train_epoch(self, runner: Runner) -> None:
        """Switch the warm-up on or off, also after resuming."""
        warm_up = runner.epoch < self.epochs
        for module in _modules(runner.model, nn.Module):
            if hasattr(module, "proposal_warm_up"):
                module.proposal_warm_up = warm_up


@HOOKS.register_module()
class FreezeBackboneHook(Hook):
    """Keep backbones fixed in the first epochs: no gradients, norms in eval mode.

    Only for backbones that were loaded, by ``init_cfg``, by their own ``pretrained`` or with the
    whole model: to freeze random weights wastes the epochs, and a warning says so. Parameters that
    were frozen before stay so. In distributed training set ``find_unused_parameters=True``.

    Args:
        until: number of the first epoch, from 0, in which everything is trained.

    Raises:
        ValueError: the number is negative; or, before training, the loop has no epochs to count.
    """

    def __init__(self, until: int = 20) -> None:
        if until < 0:
            raise ValueError(f"until={until} must not be negative.")
        self.until = until
        self._frozen: list[nn.Parameter] = []

    def before_train(self, runner: Runner) -> None:
        """Refuse a training in which the backbone would never be released."""
        if self.until and any(True for _ in _backbones(runner.model)):
            until = "the backbone stays fixed to its end"
            _check_epochs(runner, "FreezeBackboneHook.until", self.until, until)

    def before_train_epoch(self, runner: Runner) -> None:
        """Freeze before the epoch ``until``, release from it on."""
        if runner.epoch >= self.until:
            for parameter in self._frozen:
                parameter.requires_grad = True
            self._frozen = []
            return
        backbones = list(_backbones(runner.model))
        whole = runner._load_from or runner._resume or _loads(_unwrapped(runner.model))
        loaded = whole or all(any(map(_loads, each.modules())) for each in backbones)
        if not self._frozen and not loaded:
            print_log(
                f"FreezeBackboneHook keeps a backbone of random weights fixed for {self.until} "
                "epochs: load pretrained weights (backbone.init_cfg or load_from), or remove it. A "
                "backbone that has loaded its own says so by an attribute `pretrained = True`",
                "current",
                level=30,
            )
        for backbone in backbones:
            for parameter in backbone.parameters():
                if parameter.requires_grad:
                    parameter.requires_grad = False
                    self._frozen.append(parameter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Reverse `model.train()`, which runs at the start of epochs and after validation."""
        if self._frozen:
            for backbone in _backbones(runner.model):
                for module in backbone.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()


def _check_epochs(runner: Runner, name: str, count: int, until: str) -> None:
    """Refuse loops that count iterations, which are one epoch to a hook; warn of too few epochs.

    ``name`` is that of the hook and its argument, ``until`` what then holds to the end.
    """
    hook, _, argument = name.partition(".")
    shown = f"{hook}({argument}={count})"
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        raise ValueError(
            f"{shown} counts epochs, and {type(runner.train_loop).__name__} has none: it would "
            "stay on to the end of the training. Train by epochs, train_cfg=dict(by_epoch=True, "
            f"max_epochs=...), or set {argument}=0, or remove the hook."
        )
    epochs = getattr(runner.train_loop, "max_epochs", math.inf)
    if epochs <= count:
        print_log(
            f"{shown}, and the training has {epochs} epochs: {until}. Train longer, or set "
            f"{argument} to a smaller number",
            "current",
            level=30,
        )


def _loads(module: nn.Module) -> bool:
    """Whether a module loads weights; an ``init_cfg`` may also say how to draw random ones."""
    given = getattr(module, "init_cfg", None) or ()
    given = [given] if isinstance(given, Mapping) else given
    loads = any(entry.get("type") in ("Pretrained", PretrainedInit) for entry in given)
    return loads or bool(getattr(module, "pretrained", None))


def _target(dataset: object) -> Mapping:
    """``target`` of a data set's metainfo, below wrappers that lack it; empty if there is none."""
    target = (getattr(dataset, "metainfo", None) or {}).get("target")
    while target is None and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
        target = (getattr(dataset, "metainfo", None) or {}).get("target")
    return target or {}


def _check_periods(codecs: list[TargetCodec], target: Mapping, source: str) -> None:
    """Refuse a data set whose angles are no angles to a codec, or the reverse."""
    for codec in codecs:
        declared = target.get("periods") or (None,) * codec.dim
        if not target or len(declared) != codec.dim:
            continue  # nothing is declared, or the labels are refused for their number
        if all(math.isclose(a or 0, b or 0) for a, b in zip(declared, codec.periods)):
            continue
        raise ValueError(
            f"periods={tuple(declared)} in metainfo['target'] of {source}, but "
            f"periods={codec.periods} in the codec: the model and the metrics would measure angles "
            "in different ways. Declare the same periods, and ranges, in both."
        )


def _warn_of_integers(model: nn.Module) -> None:
    """Warn if a head with a density takes integers for points."""
    for head in _modules(model, RegressionHead):
        if _has_density(head) and not head.codec.dequantise:
            print_log(
                f"the labels are integers, and {type(head).__name__} learns a density of them "
                "without codec.dequantise=True: its likelihood can grow without bound and means "
                "nothing. Set it, or integer=False in metainfo['target'] for real numbers",
                "current",
                level=30,
            )
            return


def _has_density(head: RegressionHead) -> bool:
    return type(head).posterior is not RegressionHead.posterior


def _with_statistics(dataset: object) -> object:
    """The data set itself, below wrappers that repeat it or take classes out of it."""
    while not hasattr(dataset, "target_statistics") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return dataset


def _modules(model: nn.Module, kind: type) -> list:
    return [module for module in model.modules() if isinstance(module, kind)]


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _backbones(model: nn.Module) -> Iterator[nn.Module]:
    for name, module in _unwrapped(model).named_modules():
        if name.rpartition(".")[2] == "backbone":
            yield module
