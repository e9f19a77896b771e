"""A hook that stops a run whose checkpoint does not belong to its model and its data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from mmdet.datasets import CocoDataset
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, PretrainedInit, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from .checkpoint_conversion import some_of
from .safe_loading import CheckpointError

__all__ = ["CompleteWeightsHook"]


class CompleteWeightsHook(Hook):
    """Compares a run's checkpoint with its model, when mmengine has loaded it.

    mmengine loads what fits and prints what does not. So a test with a checkpoint of another model
    ends with the AP of random weights, and an energy head may be trained for days on a detector
    that was never loaded. Refused are

    - before a test: a checkpoint that lacks weights of the model, or has them in other shapes; and
      one without an energy head where the head decides about boxes;
    - before training with a frozen detector: no checkpoint, or one that lacks weights of that
      detector. What is trained may start from random weights;
    - in both cases, a checkpoint of a training in which a label meant another class than in the
      data. Data sets in COCO's format are not looked at: mmdet numbers their labels as the file
      does, whatever the order of ``metainfo['classes']``.

    Weights that the model does not have are none of its business: mmengine lists them.
    ``tools/train.py`` and ``tools/test.py`` add this hook automatically.

    Args:
        refuse: False writes a warning instead.

    Raises:
        CheckpointError: see above; raised before the first batch.
    """

    priority = "VERY_HIGH"

    def __init__(self, refuse: bool = True) -> None:
        self.refuse = refuse
        self._names: list[str] | None = None
        self._classes: list[str] = []
        self._missing: Sequence[str] = ()
        self._errors: Sequence[str] = ()
        self._handles: list = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Listen to the loading, which mmengine begins when all hooks have been called."""
        self._names = list(checkpoint.get("state_dict", checkpoint))
        self._classes = _classes(checkpoint.get("meta"))
        model = _innermost(runner.model)
        self._handles += [
            model._register_load_state_dict_pre_hook(self._begin),
            model.register_load_state_dict_post_hook(self._end),
        ]

    def _begin(self, state_dict, prefix, metadata, strict, missing, unexpected, errors) -> None:
        self._errors = errors  # of the whole loading, to which all modules inside add

    def _end(self, module: nn.Module, incompatible) -> None:
        # After hooks of the model have taken out what it does without. Copies, because mmengine
        # goes on to write into the same lists.
        self._missing, self._errors = list(incompatible.missing_keys), list(self._errors)

    def before_test(self, runner: Runner) -> None:
        """Refuse a checkpoint that does not hold the whole model."""
        if self._names is None:
            return
        model = self._loaded(runner)
        if problems := self._problems(""):
            self._report(
                f"{runner._load_from} does not fit the model of the config: {problems}; give the "
                "right one"
            )
        elif _head_decides(model) and not any("energy_head." in name for name in self._names):
            self._report(
                f"{runner._load_from} has no energy head (energy_head.*), so that of the config is "
                "not trained and would choose and move boxes at random; for the detector's boxes "
                "alone add --cfg-options model.refiner=None model.candidates=None"
            )
        self._compare_classes(runner, "test_dataloader")

    def before_train(self, runner: Runner) -> None:
        """Refuse to train a head on a frozen detector without its weights."""
        model = self._loaded(runner)
        if not getattr(model, "freeze_detector", False):
            return
        if self._names is None:
            if not (_loads(model) or _loads(model.detector)):
                self._report(
                    f"the detector inside of {type(model).__name__} is frozen, and nothing loads "
                    "its weights: the energy head would learn from random features. Set load_from "
                    "to the checkpoint of the detector, or model.freeze_detector=False to train "
                    "both"
                )
        elif problems := self._problems("detector."):
            self._report(
                f"{runner._load_from or 'the checkpoint'} does not fit the frozen detector of the "
                f"config: {problems}; give the right one"
            )
        self._compare_classes(runner, "train_dataloader")

    def _compare_classes(self, runner: Runner, loader: str) -> None:
        for dataset in _data_sets(getattr(runner, loader).dataset):
            ours = _classes(getattr(dataset, "metainfo", None))
            for label, name in enumerate(self._classes):
                if name not in ours or ours.index(name) == label:
                    continue
                if not isinstance(dataset, CocoDataset):
                    self._report(
                        f"{name!r} is label {label} to {runner._load_from}, whose classes are "
                        f"{self._classes}, and label {ours.index(name)} in {loader}, whose classes "
                        f"are {ours}; give metainfo.classes of the data set the order of the "
                        "checkpoint"
                    )
                break

    def _loaded(self, runner: Runner) -> nn.Module:
        """The model inside of all wrappers; nothing listens to its loading any more."""
        while self._handles:
            self._handles.pop().remove()
        return _innermost(runner.model)

    def _problems(self, part: str) -> str:
        """What is missing or of another shape in a part of the model; '' if nothing is."""
        missing = [
            name
            for name in self._missing
            if name.startswith(part) and "num_batches_tracked" not in name
        ]
        # torch's sentences; those of other faults are shown as they are.
        named = [re.match(r"size mismatch for (\S+):", str(error)) for error in self._errors]
        shapes = [found[1] for found in named if found and found[1].startswith(part)]
        clauses = [
            f"{len(names)} of its tensors {what}: {some_of(names)}"
            for names, what in ((missing, "are missing"), (shapes, "have another shape"))
            if names
        ]
        others = [str(error) for error, found in zip(self._errors, named) if not found]
        return "; ".join([*clauses, *others])

    def _report(self, message: str) -> None:
        if self.refuse:
            raise CheckpointError(f"{message}, or --incomplete to go on all the same")
        print_log(f"{message}. Going on, because of --incomplete", logger="current", level=30)


def _data_sets(dataset: object) -> Iterator[object]:
    """The data sets inside of wrappers."""
    inner = getattr(dataset, "datasets", None) or getattr(dataset, "dataset", None)
    if inner is None:
        yield dataset
    else:
        for each in inner if isinstance(inner, (list, tuple)) else [inner]:
            yield from _data_sets(each)


def _classes(meta: object) -> list[str]:
    """Names of the classes in a data set's ``metainfo`` or a checkpoint's ``meta``, if any."""
    meta = meta if isinstance(meta, Mapping) else {}
    for part in (meta.get("dataset_meta"), meta):
        for key in ("classes", "CLASSES") if isinstance(part, Mapping) else ():
            if part.get(key):
                return [part[key]] if isinstance(part[key], str) else list(part[key])
    return []


def _innermost(model: nn.Module) -> nn.Module:
    """The model inside of wrappers for several processes and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _head_decides(model: nn.Module) -> bool:
    """Whether boxes depend on f: it chooses among candidates, or a refiner moves boxes."""
    if not hasattr(model, "energy_head"):
        return False
    refiner = getattr(model, "refiner", None)
    steps = [getattr(refiner, name, None) for name in ("num_steps", "regression_steps")]
    still = refiner is None or (steps[0] == 0 and not steps[1])
    return getattr(model, "candidates", None) is not None or not still


def _loads(module: nn.Module) -> bool:
    """Whether the ``init_cfg`` of a module names weights."""
    given = getattr(module, "init_cfg", None) or ()
    given = [given] if isinstance(given, Mapping) else given
    return any(entry.get("type") in ("Pretrained", PretrainedInit) for entry in given)
