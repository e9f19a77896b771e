"""What several commands need."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["add_enlarge", "is_3d", "kept_on_interruption", "read_config", "say"]


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


@contextmanager
def kept_on_interruption() -> Iterator[None]:
    """Context of a command that can be called again after Ctrl-C, which is then said."""
    try:
        yield
    except KeyboardInterrupt:
        say("what is done is kept; the same command goes on from there")
        raise


def read_config(name: str):
    """The config of a file, or of a name such as ``mmdet::NAME``."""
    from mmengine.config import Config
    from mmengine.hub import get_config

    return get_config(name) if "::" in name else Config.fromfile(name)


def is_3d(cfg) -> bool:
    """Whether a config is that of mmdet3d; raises ``ImportError`` if it is and that is absent."""
    if str(cfg.get("default_scope")) != "mmdet3d":
        return False
    # The packages of 3D stand above this one, and may be absent: this name says so then.
    from ebm_mmdet3d import EBM3DDetector  # noqa: F401

    return True


def add_enlarge(command: argparse.ArgumentParser) -> None:
    """Add ``--enlarge``."""
    command.add_argument(
        "--enlarge",
        type=int,
        default=1,
        metavar="N",
        help="times by which images are enlarged for the head: finer maps and more precise boxes, "
        "for N^2 times the time of the detector's features; default: 1",
    )
