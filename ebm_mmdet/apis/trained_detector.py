"""Loads the detector of a config for prediction, and makes its input from an image file."""

from __future__ import annotations

import copy
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from mmcv.transforms import Compose
from mmdet.models.detectors import BaseDetector
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader, load_state_dict
from torch import nn

from ..engine import CheckpointError, usable_device
from ..engine.stored_intervals import attach_stored_intervals, model_digest
from ..models.detectors import EBMDetector
from ..models.detectors.peculiarities import refuse_trackers
from .config_faults import building
from .config_text import type_name
from .inspection import inner_datasets

__all__ = [
    "dataset_meta",
    "file_pipeline",
    "fit_weights",
    "has_energy_head",
    "image_pipeline",
    "load_detector",
    "load_frozen_detector",
    "load_weights",
    "read_config",
    "refuse_other_models",
    "refuse_untrained_head",
]


def load_detector(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None,
    device: str | torch.device | None = "cpu",
    cfg_options: dict | None = None,
    needs_head: bool = False,
) -> nn.Module:
    """Build the model of a config in eval mode, with the weights of a checkpoint, all of them.

    mmdet's ``inference_detector`` takes the result, as it takes that of mmdet's ``init_detector``.
    That function looks for a ``backbone`` in the model's config, which a detector inside of another
    one has not, and only prints what a checkpoint lacks.

    Args:
        config: file, name of a packaged one (``mmdet::NAME``), or config; it does not change.
        checkpoint: file, URL, or None for the weights of the initialisation.
        device: of the model; None: a GPU if there is one.
        cfg_options: values to merge into the config, by dotted names.
        needs_head: whether a checkpoint without an energy head is refused, see
            :func:`refuse_untrained_head`.

    Returns:
        The model. Its ``cfg`` is the config, and its ``dataset_meta`` that of the config's test
        data set, with entries of the checkpoint before it.

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: there is no such device, or the config's model is absent or cannot be built.
        CheckpointError: the checkpoint cannot be read, lacks weights of the model, or has others.
    """
    device = usable_device(device)
    cfg = read_config(config)
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    with building("model"):
        model = MODELS.build(copy.deepcopy(cfg.model))  # mmdet's detectors write into their config
    meta = dataset_meta(cfg)
    if checkpoint is not None:
        loaded = load_weights(model, checkpoint)
        if needs_head:
            refuse_untrained_head(loaded.get("state_dict", loaded), checkpoint)
        attach_stored_intervals(model, loaded, model_digest(cfg))
        kept = loaded.get("meta", {}).get("dataset_meta", {})
        meta |= {key.lower(): value for key, value in kept.items() if value}
    model.cfg, model.dataset_meta = cfg, meta
    model.to(device).eval()  # not returned: mmdet's detectors with a teacher return nothing here
    return model


def load_frozen_detector(cfg: Config) -> EBMDetector:
    """:func:`load_detector` of an ``EBMDetector`` with its trained detector, ``cfg.load_from``.

    Raises:
        ValueError: the config does not describe an ``EBMDetector`` or names no checkpoint.
    """
    if cfg.model.type != "EBMDetector" or not cfg.get("load_from"):
        raise ValueError(
            f"model.type={cfg.model.type!r} with load_from={cfg.get('load_from')!r}; expected an "
            "EBMDetector and the checkpoint of its trained detector"
        )
    return load_detector(cfg, cfg.load_from)


def load_weights(
    model: nn.Module, checkpoint: str | os.PathLike, what: str = "the model of the config"
) -> dict:
    """Load a checkpoint into a model as :func:`fit_weights` does.

    Args:
        model: on the CPU.
        checkpoint: file or URL.
        what: the model's name for the message.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it cannot be read, or does not fit.
    """
    loaded = CheckpointLoader.load_checkpoint(os.fspath(checkpoint), map_location="cpu")
    fit_weights(model, loaded, checkpoint, what)
    return loaded


def fit_weights(
    model: nn.Module,
    loaded: object,
    checkpoint: str | os.PathLike,
    what: str = "the model of the config",
) -> None:
    """Load the content of a checkpoint into a model, all of its tensors into all of the model's.

    A plain detector's checkpoint fits an ``EBMDetector``, whose head then keeps its values. The
    file may have ``state_dict`` among other things, or be one. Prefixes of ``DataParallel`` and
    ``torch.compile`` are dropped, and so are the second copies ``ema_*`` of mmdet 2, and buffers
    that the model fills itself, which other versions of a package have saved.

    Args:
        model: on the CPU.
        loaded: the content.
        checkpoint: its file or URL, for the message.
        what: the model's name for the message.

    Raises:
        CheckpointError: a tensor is missing, without a place, or of another shape; the message
            names it.
    """
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{checkpoint} does not fit {what}: it has no state_dict")
    try:
        load_state_dict(model, _plain_names(weights, model), strict=True)
    except RuntimeError as error:  # torch's and mmengine's, of every kind of misfit
        raise CheckpointError(f"{checkpoint} does not fit {what}: {_misfit(error)}") from error


def has_energy_head(names: Iterable[str]) -> bool:
    """Whether tensors of these names are of a checkpoint with an energy head.

    A plain detector's loads into an ``EBMDetector`` too, and leaves its head untrained.
    """
    return any("energy_head." in name for name in names)


def refuse_untrained_head(names: Iterable[str], checkpoint: str | os.PathLike) -> None:
    """Refuse a plain detector's checkpoint where the energy head decides about boxes.

    It fits an ``EBMDetector``, whose head keeps random values and would move every box.

    Args:
        names: of the checkpoint's tensors.
        checkpoint: its file or URL, for the message.

    Raises:
        CheckpointError: no tensor is one of an energy head.
    """
    if not has_energy_head(names):
        raise CheckpointError(
            f"{checkpoint} has no energy head (energy_head.*), so f of the config's would be "
            "random and move boxes anywhere; give the checkpoint of a trained head, such as "
            "`python -m ebm_mmdet fit` writes, or, for the detector's boxes alone, `predict "
            "--no-refine` (refine=False) with a config without model.candidates"
        )


def refuse_other_models(cfg: Config) -> None:
    """Refuse the config of a model that is no detector of images, before it is built.

    Raises:
        ValueError: it is one of videos, of numbers, or any other.
    """
    kind = cfg.model.get("type")
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if not isinstance(kind, type):  # not registered, as building it will say
        return
    refuse_trackers(kind)
    if not issubclass(kind, BaseDetector):
        other = "another tool, made for it"
        if kind.__name__ == "ImageRegressor":
            other = "`python tools/test.py CONFIG CHECKPOINT --show-dir pictures`, which"
            other += " predicts numbers for the config's test data (docs/regression.md)"
        raise ValueError(
            f"model.type={kind.__name__!r} is no detector, and boxes can be predicted by a "
            f"detector alone (mmdet's BaseDetector); use {other}"
        )


def _plain_names(weights: Mapping, model: nn.Module) -> OrderedDict:
    """Weights under the names that the model has outside of wrappers, of those that it loads."""
    known, named = model.state_dict(), OrderedDict()
    own = {name for name, _ in model.named_buffers()} - known.keys()
    for key, value in weights.items():
        name = re.sub(r"^(module\.|_orig_mod\.)+", "", key)
        if name in known or not (name in own or name.startswith("ema_")):
            named[name] = value
    named._metadata = getattr(weights, "_metadata", OrderedDict())
    return named


def _misfit(error: RuntimeError) -> str:
    """What mmengine says about a state dict that does not fit, with one name of each kind."""
    shapes, others = [], []
    pattern = r"size mismatch for (\S+): .*torch\.Size\((.*)\) from .*torch\.Size\((.*)\)"
    for line in str(error).splitlines():
        found, (kind, _, names) = re.match(pattern, line), line.partition(" in source state_dict: ")
        if found:
            shapes.append("{} ({} instead of {})".format(*found.groups()))
        elif names:
            meaning = "missing" if kind.startswith("missing") else "not the model's"
            others.append(_some(names.split(", "), meaning))
        elif line.strip() and not line.startswith("The model and loaded state dict"):
            others.append(line.strip())
    clauses = [_some(shapes, "of another shape")] if shapes else []
    return "; ".join([*clauses, *others])


def _some(names: Sequence[str], what: str) -> str:
    number = f"{len(names)} tensors are" if len(names) > 1 else "1 tensor is"
    return f"{number} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def image_pipeline(cfg: Config) -> Callable[[str | Path], dict]:
    """The function from the path of an image to one item of the config's test data set.

    It is the pipeline of :func:`file_pipeline` on an image without annotations, so that a pipeline
    that loads annotations finds none.
    """
    init_default_scope(cfg.get("default_scope", "mmdet"))
    steps = Compose(file_pipeline(cfg))

    def load(path: str | Path, number: int = 0) -> dict:
        return steps(dict(img_path=str(path), img_id=number, instances=[]))

    return load


def file_pipeline(cfg: Config) -> list[dict]:
    """Config of the pipeline of ``test_dataloader.dataset``, for image files.

    Of several data sets it is that of the first; without a ``test_dataloader`` that of the
    ``val_dataloader``.

    Data sets that make their images have no step that loads a file: one is put before the others,
    and then, if the data set's ``options`` have an ``image_size`` (height, width), a resize to it.

    Raises:
        ValueError: the config has neither.
    """
    dataset = _test_dataset(cfg)
    if dataset is None:
        raise ValueError(
            f"{cfg.filename or 'the config'} has no test_dataloader, whose pipeline reads images; "
            "add one"
        )
    pipeline = copy.deepcopy(list(dataset.pipeline))
    if not any("LoadImage" in type_name(step) for step in pipeline):
        size = (dataset.get("options") or {}).get("image_size")
        resize = [dict(type="Resize", scale=tuple(size[::-1]), keep_ratio=False)] if size else []
        pipeline = [dict(type="LoadImageFromFile"), *resize, *pipeline]
    return pipeline


def read_config(config: str | os.PathLike | Config) -> Config:
    """A copy of a config, or that of a file or of a packaged name (``mmdet::NAME``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no model.
    """
    if isinstance(config, Config):
        cfg = copy.deepcopy(config)
    else:
        name = os.fspath(config)
        cfg = get_config(name) if "::" in name else Config.fromfile(name)
    if "model" not in cfg:
        raise ValueError(f"{cfg.filename or 'the config'} has no model; give a detector's config")
    return cfg


def _test_dataset(cfg: Config) -> dict | None:
    """Config of the first data set inside that of the test, or of the validation."""
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    return inner_datasets(loader["dataset"])[0] if loader else None


def dataset_meta(cfg: Config) -> dict:
    """``metainfo`` of the test data set, without reading its files; empty if there is none."""
    dataset = _test_dataset(cfg)
    if dataset is None:
        return {}
    cls = DATASETS.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    known = getattr(cls, "METAINFO", {}) | (dataset.get("metainfo") or {})
    return dict(known)
