"""A hook that keeps training checkpoints readable."""

from __future__ import annotations

import collections
import datetime
import enum
import pathlib
from collections.abc import Mapping

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .safe_loading import allowed_types, is_plain_attribute

__all__ = ["ReadableCheckpointHook"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray)
_CONTAINERS = (dict, collections.OrderedDict, ConfigDict, list, tuple, set, frozenset)


@HOOKS.register_module()
class ReadableCheckpointHook(Hook):
    """Make sure that everything in a training checkpoint can be read again.

    Values that :func:`read_checkpoint` would refuse are written as a plain value of the same kind
    (a ``deque`` as a list, a member of an enumeration as its value); the last resort is their
    ``repr``, with a warning that names the entry. Weights and the state of the optimizer are not
    changed. ``tools/train.py`` and the demos add this hook automatically.
    """

    priority = "VERY_LOW"

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace entries of the checkpoint in place; mmengine has copied its own objects."""
        known = {value for value in allowed_types().values() if isinstance(value, type)}
        for key, value in checkpoint.items():
            if key not in ("state_dict", "optimizer", "ema_state_dict"):
                checkpoint[key] = _readable(value, key, known)


def _readable(value: object, where: str, known: set[type]) -> object:
    """``value`` if it can be read again, else the plain value that replaces it."""
    kind = type(value)
    if isinstance(value, (torch.dtype, torch.device, torch.Size)):
        return value
    if isinstance(value, enum.Enum):
        return _readable(value.value, where, known)
    if isinstance(value, Config):
        value, kind = value._cfg_dict, ConfigDict
    if isinstance(value, Mapping):
        # By the base class, because `ConfigDict.items` builds the lazy objects of a config.
        pairs = dict.items(value) if isinstance(value, dict) else value.items()
        items = {
            _readable(key, f"{where}.{key}", known): _readable(item, f"{where}.{key}", known)
            for key, item in pairs
        }
        return kind(items) if kind in _CONTAINERS else items
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        items = [_readable(item, f"{where}.{i}", known) for i, item in enumerate(value)]
        if kind in _CONTAINERS:
            return kind(items)
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, (np.ndarray, np.generic)):
        plain = (
            isinstance(value, np.generic) or kind is np.ndarray
        )  # not a masked array or a matrix
        if plain and type(value.dtype) in known and value.dtype != object:
            return value
        return _readable(value.tolist(), where, known)
    if isinstance(value, pathlib.PurePath):
        return value if kind in known else str(value)
    if isinstance(value, (datetime.datetime, datetime.time)) and kind in known:
        zone = value.tzinfo
        return value if zone is None or type(zone) in known else value.isoformat()
    if isinstance(value, torch.Tensor) or kind in known or kind in _PLAIN:
        return value
    if is_plain_attribute(value) or (isinstance(value, type) and value in known):
        return value
    for base in _PLAIN[2:]:  # a subclass of int, float, ...
        if isinstance(value, base):
            return base(value)
    print_log(
        f"The checkpoint's entry {where} is of the type {kind.__module__}.{kind.__qualname__}, "
        f"which is not read from checkpoints: its repr is saved instead, {value!r:.80}",
        logger="current",
        level=30,
    )
    return repr(value)
