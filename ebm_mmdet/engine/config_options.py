"""Options ``KEY=VALUE`` that override settings of a config; those without effect are refused."""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

__all__ = ["OTHER_KEYS", "OptionsAction", "UsageError", "merge_options", "parse_options"]

# Keys that mmengine's runners and the tools read besides the parameters of the runner.
OTHER_KEYS = {
    "activation_checkpointing",
    "compile",
    "custom_imports",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "runner_type",
    "sync_bn",
    "tta_model",
    "tta_pipeline",
}


class UsageError(ValueError):
    """Arguments that cannot work; the message names them and the remedy."""


class OptionsAction(DictAction):
    """mmengine's reader of options ``KEY=VALUE``, with two differences.

    Blanks inside of a text stay: mmengine removes them, so that ``work_dir='my runs/a'`` would
    write to ``myruns/a``. An argument that is no option ends the command with a message.
    """

    @staticmethod
    def _parse_iterable(val: str) -> object:
        """The value of a text: a number, a bool, None, a list or tuple of values, or the text."""
        text = val.strip().strip("'\"")
        if "," in text or text.startswith(("(", "[")):
            text = re.sub(r"\s+(?=[)\],])", "", re.sub(r"(?<=[(\[,])\s+", "", text))
        return _with_blanks(DictAction._parse_iterable(text.replace(" ", _BLANK)))

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Called by argparse."""
        for pair in values:
            if "=" not in pair:
                parser.error(
                    f"{option_string} {pair}: expected KEY=VALUE; arguments that are none come "
                    f"before {option_string}"
                )
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # brackets that are not in pairs
            parser.error(f"{option_string}: {error}")


_BLANK = "\0"
"""Stands for a blank while mmengine reads a value; no argument of a command can contain it."""


def _with_blanks(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_with_blanks, value))
    return value.replace(_BLANK, " ") if isinstance(value, str) else value


def parse_options(pairs: Sequence[str] | None) -> dict[str, object]:
    """Options ``KEY=VALUE``, as :class:`OptionsAction` reads them.

    Raises:
        UsageError: one has no ``=``.
    """
    for pair in pairs or ():
        if "=" not in pair:
            raise UsageError(f"--cfg-options {pair}: expected KEY=VALUE")
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction)
    arguments = ["--cfg-options", *pairs] if pairs else []
    return parser.parse_args(arguments).cfg_options or {}


def merge_options(
    cfg: Config, options: Mapping[str, object] | None, read: Collection[str] = ()
) -> None:
    """Apply ``--cfg-options`` to a config in place, after a check that they have an effect.

    A variable at the top level of a config file, such as ``energy_head = dict(...)``, names a value
    that the file puts into ``model``. The variable stays in the config, but nothing reads it, so
    setting it would silently change nothing.

    Args:
        cfg: the config.
        options: value of each dotted key, in the format of :class:`OptionsAction`.
        read: top-level keys that the calling tool reads besides those of a runner.

    Raises:
        UsageError: nothing reads the first key of an option; the message suggests keys of the same
            name in the parts of the config that are read. Or a key does not exist in a list.
    """
    options = dict(options or {})
    runner = options.get("runner_type", cfg.get("runner_type"))
    known = {*_runner_keys(runner), *OTHER_KEYS, *read}
    for option in options:
        first = option.partition(".")[0]
        if first in known:
            continue
        is_there = (
            f"{first!r} is a variable of the config file that nothing reads"
            if first in cfg
            else f"the config has no {first!r}, and nothing would read it"
        )
        meant = (
            _same_content(cfg, option, known)
            or _same_name(cfg, option, known)
            or _close_name(option, known)
        )
        remedy = f"Did you mean {' or '.join(meant)}? " if meant else ""
        raise UsageError(
            f"--cfg-options {option}={options[option]}: no effect, because {is_there}. {remedy}"
            "The keys that a run reads begin with model, train_dataloader, optim_wrapper, and so "
            "on; change a variable of the file in the file."
        )
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UsageError(_why_not_merged(cfg, options, error)) from error
    if any(option.partition(".")[0] == "custom_imports" for option in options):
        import_modules_from_strings(**cfg.custom_imports)  # those of the file are already imported


def _why_not_merged(cfg: Config, options: Mapping[str, object], error: Exception) -> str:
    """Which option does not fit the config, and what is at its place."""
    for option in options:
        value, keys = cfg._cfg_dict, option.split(".")
        for depth, key in enumerate(keys):
            if isinstance(value, Mapping):
                value = value.get(key)
            elif isinstance(value, (list, tuple)):
                if not (key.isdecimal() and int(key) < len(value)):
                    place = ".".join(keys[:depth])
                    return (
                        f"--cfg-options {option}: {place} is a list of {len(value)}, and {key!r} "
                        f"is no position in it; give {place}.0 to {place}.{len(value) - 1}"
                    )
                value = value[int(key)]
    return f"--cfg-options {' '.join(options)}: not to be merged into the config: {error}"


def _runner_keys(runner_type: str | None) -> set[str]:
    """Keys of a config that a type of runner takes, such as ``work_dir`` and ``model``."""
    from mmdet.registry import RUNNERS

    kind = (RUNNERS.get(runner_type) if runner_type else None) or Runner
    return {*inspect.signature(kind.__init__).parameters} - {"self", "cfg"}


def _same_content(cfg: Config, option: str, known: Collection[str]) -> list[str]:
    """Paths, below the keys that are read, of the content of the variable in the option."""
    keys = option.split(".")
    part, best = cfg._cfg_dict, []
    for depth, key in enumerate(keys, start=1):
        if isinstance(part, Mapping):
            part = part.get(key)
        elif isinstance(part, list) and key.isdigit() and int(key) < len(part):
            part = part[int(key)]
        else:
            break
        # Numbers and names are equal by chance; a dictionary, or a list of some, is not.
        first = part[0] if isinstance(part, list) and part else part
        if not (isinstance(first, Mapping) and first):
            break
        same = [path for path, value in _parts(cfg, known) if value == part]
        best = [path + keys[depth:] for path in same] or best
    return _shown(best)


def _same_name(cfg: Config, option: str, known: Collection[str]) -> list[str]:
    """Paths, below the keys that are read, with the same ending as the option or its parent.

    The longest common ending counts: ``energy_head.pool_size`` finds
    ``model.energy_head.pool_size`` and not the ``pool_size`` of another part. A common ``type``
    alone does not count.
    """
    wanted = option.split(".")
    paths = [path for path, _ in _parts(cfg, known)]
    for end, new in ((wanted, []), (wanted[:-1], wanted[-1:])):
        for start in range(len(end)):
            tail = end[start:]
            found = [path for path in paths if path[-len(tail) :] == tail]
            if found and tail != ["type"]:
                return _shown([path + new for path in found])
    return []


def _shown(paths: list[list[str]], most: int = 3) -> list[str]:
    return [".".join(path) for path in sorted(paths, key=len)[:most]]


def _parts(cfg: Config, known: Collection[str]) -> Iterator[tuple[list[str], object]]:
    """Path (a list of keys) and value of everything below the keys that are read."""

    def walk(value: object) -> Iterator[tuple[list[str], object]]:
        if isinstance(value, Mapping):
            items = value.items()
        else:
            items = enumerate(value) if isinstance(value, (list, tuple)) else ()
        for key, item in items:
            yield [str(key)], item
            yield from (([str(key), *path], inner) for path, inner in walk(item))

    return walk({key: value for key, value in cfg.items() if key in known})


def _close_name(option: str, known: Collection[str]) -> list[str]:
    """The option with its first key corrected to one that is read, if the spelling is close."""
    first, dot, rest = option.partition(".")
    return [
        name + dot + rest for name in difflib.get_close_matches(first, sorted(known), 1, cutoff=0.8)
    ]
