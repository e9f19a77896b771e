"""The weights of a checkpoint, all of them, into all of a model; misfits are named."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from mmengine.runner import CheckpointLoader, load_state_dict
from torch import nn

from ..engine import CheckpointError

__all__ = ["fit_weights", "has_energy_head", "load_weights", "refuse_untrained_head"]


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
