"""Changes to a config, with a comment for each number, as a dictionary and as a config file."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from keyword import iskeyword
from typing import Any, NamedTuple

from ..engine.command_line import type_name

__all__ = ["Inherited", "Noted", "plain", "render", "type_name"]

WIDTH = 100


class Noted(NamedTuple):
    """A value with a comment that says where it comes from."""

    value: object
    comment: str


class Inherited(NamedTuple):
    """A value that the written file takes from a variable of its own, or from its base."""

    value: object
    expression: str


def plain(changes):
    """The changes without comments, for ``Config.merge_from_dict``."""
    if isinstance(changes, (Noted, Inherited)):
        return plain(changes.value)
    if isinstance(changes, Mapping):
        return {key: plain(value) for key, value in changes.items()}
    if isinstance(changes, (list, tuple)):
        return type(changes)(plain(each) for each in changes)
    return changes


def render(changes: Mapping) -> str:
    """The changes as the text of a config file, one assignment per key.

    Raises:
        ValueError: a value has no literal, such as a class; the message names it.
    """
    blocks = []
    for key, value in changes.items():
        comment = value.comment if isinstance(value, Noted) else ""
        value = value.value if isinstance(value, Noted) else value
        head = "".join(f"# {line}\n" for line in comment.split("\n")) if comment else ""
        blocks.append(f"{head}{key} = {_value(value, '')}\n")
    return "\n".join(blocks)


def _value(value, indent: str) -> str:
    if isinstance(value, Inherited):
        return value.expression
    if not isinstance(value, (Mapping, list, tuple)):
        return _literal(value)
    short = _short(value)
    if short is not None and len(indent) + len(short) < WIDTH - 20:
        return short
    deeper = indent + "    "
    if isinstance(value, Mapping):
        opening, closing, name = _form(value)
        items = [(name(key), each) for key, each in value.items()]
    else:
        items = [("", each) for each in value]
        opening, closing = _brackets(value)
    lines = []
    for name, each in items:
        comment = each.comment if isinstance(each, Noted) else ""
        each = each.value if isinstance(each, Noted) else each
        line = f"{deeper}{name}{_value(each, deeper)},"
        if comment and ("\n" in line or len(line) + len(comment) + 4 > WIDTH):
            lines.append(f"{deeper}# {comment}\n{line}")
        else:
            lines.append(f"{line}  # {comment}" if comment else line)
    return "\n".join([opening, *lines, indent + closing])


def _short(value) -> str | None:
    """On one line; None if something in it has a comment."""
    if isinstance(value, Noted):
        return None
    if isinstance(value, Inherited):
        return value.expression
    if isinstance(value, Mapping):
        parts = {key: _short(each) for key, each in value.items()}
        if None in parts.values():
            return None
        opening, closing, name = _form(value)
        return opening + ", ".join(f"{name(key)}{text}" for key, text in parts.items()) + closing
    if isinstance(value, (list, tuple)):
        parts = [_short(each) for each in value]
        if None in parts:
            return None
        opening, closing = _brackets(value)
        comma = "," if isinstance(value, tuple) and len(parts) == 1 else ""
        return f"{opening}{', '.join(parts)}{comma}{closing}"
    return _literal(value)


def _form(value: Mapping) -> tuple[str, str, Callable[[Any], str]]:
    """What a dictionary begins and ends with, and how a key is written."""
    if all(isinstance(key, str) and key.isidentifier() and not iskeyword(key) for key in value):
        return "dict(", ")", lambda key: f"{key}="
    return "{", "}", lambda key: f"{_literal(key)}: "


def _brackets(value: list | tuple) -> str:
    # mmcv's transforms take a scale as a tuple, and refuse a list.
    return "()" if isinstance(value, tuple) else "[]"


def _literal(value) -> str:
    text = repr(value)
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError):
        raise ValueError(
            f"{text} cannot be written into a config file; name it by a string, as in "
            "type='LoadImageFromFile'"
        ) from None
    return text
