"""Hooks of image regression: statistics of labels, warm-up of proposals, frozen backbones."""

from __future__ import annotations

from collections.abc import Iterator

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .datasets.target_space import TargetError
from .label_check import check_extremes
from .target_codec import TargetCodec

__all__ = ["FitTargetCodecHook", "FreezeBackboneHook", "ProposalWarmUpHook"]


@HOOKS.register_module()
class FitTargetCodecHook(Hook):
    """Standardise labels by the mean and standard deviation of the training labels, once.

    Before training starts, every codec of the model without statistics from its config gets those
    of ``target_statistics()`` of the training set. They are saved in the checkpoint, and a resumed
    or fine-tuned model keeps those that it was trained with.

    All labels of the training and validation sets have to be finite and inside of the codecs'
    ranges, as far as the data sets have ``target_statistics()`` with ``min`` and ``max``.

    Raises:
        ValueError: a codec needs statistics, and the data set has no ``target_statistics``; or a
            label is not finite or outside of a range.
    """

    def before_train(self, runner: Runner) -> None:
        """Fit the codecs that have not been fitted, and check the labels."""
        codecs = _modules(runner.model, TargetCodec)
        dataset = _with_statistics(runner.train_dataloader.dataset)
        if hasattr(dataset, "target_statistics"):
            self._fit(codecs, dataset.target_statistics())
        elif not all(codec.fitted for codec in codecs):
            raise ValueError(
                f"{type(dataset).__name__} has no target_statistics(), which FitTargetCodecHook "
                "needs; set mean and std of the codec in the config, or add the method."
            )
        if runner.val_loop is not None:
            self._check_validation(codecs, _with_statistics(runner.val_loop.dataloader.dataset))

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
    def _check_validation(codecs: list[TargetCodec], dataset: object) -> None:
        if not hasattr(dataset, "target_statistics"):
            return
        try:
            statistics = dataset.target_statistics()
        except TargetError:  # no image is labelled, and the metrics will say so
            return
        for codec in codecs:
            check_extremes(codec, statistics, "the validation set")


@HOOKS.register_module()
class ProposalWarmUpHook(Hook):
    """Train proposals, and students of a teacher, by the labels alone in the first epochs.

        while warming up:   w = 0, v = 1   in   J_NCE + w J_KL + v NLL

    f is trained as ever. A proposal that does not cover the labels yet would teach f little, and
    learn little from it.

    Args:
        epochs: number of epochs; 0 for none.

    Raises:
        ValueError: the number is negative.
    """

    def __init__(self, epochs: int = 1) -> None:
        if epochs < 0:
            raise ValueError(f"epochs={epochs} must not be negative.")
        self.epochs = epochs

    def before_train_epoch(self, runner: Runner) -> None:
        """Switch the warm-up on or off, also after resuming."""
        warm_up = runner.epoch < self.epochs
        for module in _modules(runner.model, nn.Module):
            if hasattr(module, "proposal_warm_up"):
                module.proposal_warm_up = warm_up


@HOOKS.register_module()
class FreezeBackboneHook(Hook):
    """Keep backbones fixed in the first epochs: no gradients, norms in eval mode.

    Only for backbones that were loaded: to freeze random weights wastes the epochs, and a warning
    says so. Parameters that were frozen before stay so. In distributed training set
    ``find_unused_parameters=True``.

    Args:
        until: number of the first epoch, from 0, in which everything is trained.

    Raises:
        ValueError: the number is negative.
    """

    def __init__(self, until: int = 20) -> None:
        if until < 0:
            raise ValueError(f"until={until} must not be negative.")
        self.until = until
        self._frozen: list[nn.Parameter] = []

    def before_train_epoch(self, runner: Runner) -> None:
        """Freeze before the epoch ``until``, release from it on."""
        if runner.epoch >= self.until:
            for parameter in self._frozen:
                parameter.requires_grad = True
            self._frozen = []
            return
        backbones = list(_backbones(runner.model))
        loaded = runner._load_from or runner._resume or all(b.init_cfg for b in backbones)
        if not self._frozen and not loaded:
            print_log(
                f"FreezeBackboneHook keeps a backbone of random weights fixed for {self.until} "
                "epochs: load pretrained weights (backbone.init_cfg or load_from), or remove it",
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


def _with_statistics(dataset: object) -> object:
    """The data set itself, below wrappers that repeat it or take classes out of it."""
    while not hasattr(dataset, "target_statistics") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return dataset


def _modules(model: nn.Module, kind: type) -> list:
    return [module for module in model.modules() if isinstance(module, kind)]


def _backbones(model: nn.Module) -> Iterator[nn.Module]:
    model = model.module if is_model_wrapper(model) else model
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "backbone":
            yield module
