"""The interface of a demo to its own data, measurements and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader

from .climb import Climb

__all__ = ["STEPS", "DataError", "World"]

STEPS = (0, 1, 2, 3, 5, 7, 10, 15)
"""Numbers of refinement steps T that the curves show."""


class DataError(ValueError):
    """A user's folder is not as expected; the message tells what is missing and where."""


class World(Protocol):
    """One of the two worlds, 2D images or 3D scenes; all methods are called by `run_demo`."""

    name: str
    """Target of `make` and name of the section on the page of results: ``demo``, ``demo3d``."""
    configs: str
    """Beginning of the names of the configs: ``<configs>_base.py`` and ``<configs>_ebm.py``."""
    objective: str
    """Name of the objective of the energy head, for the screen."""
    before_after: str
    """The last lines on the screen, about the table."""

    def settings(self) -> dict:
        """Everything that a run depends on besides seeds and overrides; JSON types."""

    def quiet(self) -> AbstractContextManager:
        """Context in which the libraries of this world do not draw on the screen."""

    def prepare(self, root: Path, configs: Path, say: Callable[[str], None]) -> None:
        """Make the evaluation data in the folder `root`, unless it exists."""

    def use_data(self, cfg: Config, root: Path, seed: int) -> None:
        """Let a config (detector or energy head) use the data; changes it in place."""

    def measure(
        self, model: nn.Module, cfg: Config, loader: DataLoader, counts: Sequence[int]
    ) -> tuple[dict, list[Climb]]:
        """Evaluate after every number of steps of `counts`, and time.

        Returns:
            Two values: ``before`` and ``after`` by name (the keys of the table) with the data that
            `draw_steps` reads; the climbs for `draw`.
        """

    def draw(self, climbs: Sequence[Climb], cfg: Config, used: int, folder: Path) -> None:
        """Write the pictures of one seed; `used` is the number of steps of the table."""

    def draw_steps(self, results: Sequence[dict], folder: Path) -> None:
        """Write the curves over numbers of steps, for all seeds."""

    def page(self, results: Sequence[dict]) -> tuple[str, str] | None:
        """Text of the page of results before and after the table; None if the run is not for it."""
