"""What a demo has to say about its own data, measures and pictures."""

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
    """A user's folder is not as expected; the message says what is missing and where."""


class World(Protocol):
    """One of the two worlds, 2D images or 3D scenes; all methods are called by `run_demo`."""

    name: str
    """Target of `make` and name of the section on the page of results: ``demo``, ``demo3d``."""
    configs: str
    """Beginning of the names of the configs: ``<configs>_base.py`` and ``<configs>_ebm.py``."""
    objective: str
    """What trains the energy head, for the screen."""
    before_after: str
    """What the last lines of the screen say about the table."""

    def settings(self) -> dict:
        """What a run depends on besides seeds and overrides; JSON types."""

    def quiet(self) -> AbstractContextManager:
        """Keep what this world's libraries draw themselves off the screen."""

    def prepare(self, root: Path, configs: Path, say: Callable[[str], None]) -> None:
        """Make the data to measure on in the folder `root`, unless it is there."""

    def use_data(self, cfg: Config, root: Path, seed: int) -> None:
        """Point a config (detector or energy head) at the data, in place."""

    def measure(
        self, model: nn.Module, cfg: Config, loader: DataLoader, counts: Sequence[int]
    ) -> tuple[dict, list[Climb]]:
        """Evaluate after every number of steps of `counts`, and time.

        Returns:
            ``before`` and ``after`` by name (the keys of the table) and what `draw_steps` reads;
            climbs for `draw`.
        """

    def draw(self, climbs: Sequence[Climb], cfg: Config, used: int, folder: Path) -> None:
        """Write the pictures of one seed; `used` is the number of steps of the table."""

    def draw_steps(self, results: Sequence[dict], folder: Path) -> None:
        """Write the curve over numbers of steps, of all seeds."""

    def page(self, results: Sequence[dict]) -> tuple[str, str] | None:
        """What the page of results says before and after the table; None: it has no place there."""
