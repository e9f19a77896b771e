"""`make demo`: a small FCOS and its energy head on generated shapes or on a user's images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader

from ebm_mmdet.energy import evaluate_only

from .. import report
from ..climb import Climb
from ..evaluate import milliseconds_with
from ..world import STEPS
from .data import NUM_IMAGES, USER_IMAGE_SIZE, check_folder, generate, use_data
from .evaluate import TIME, trace_steps
from .pictures import draw_all, draw_steps

__all__ = ["ShapesWorld"]

PICTURED_IMAGES = 60
TIMED_IMAGES = 40


class ShapesWorld:
    """See `lab.demo.world.World`.

    Args:
        data: A user's folder (`data.LAYOUT`) instead of generated shapes.
        num_images: Numbers of generated images, ``{"train": n, "val": n}``.

    Raises:
        DataError: `data` is not as expected.
    """

    name, configs, objective = "demo", "shapes", "NCE+"

    def __init__(self, data: Path | None = None, num_images: dict[str, int] | None = None) -> None:
        self.data = check_folder(Path(data).resolve()) if data is not None else None
        self.generated, self.num_images = data is None, num_images or NUM_IMAGES
        self.before_after = report.EARLY_STOP
        if not self.generated:
            self.before_after = (
                f"Trained from scratch in minutes, images resized to {USER_IMAGE_SIZE} pixels: "
                "read the differences, not the level. For your own detector, see docs."
            )

    def settings(self) -> dict:
        data = "shapes" if self.generated else str(self.data.root)
        return {"data": data, "num_images": self.num_images}

    def quiet(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def prepare(self, root: Path, configs: Path, say: Callable[[str], None]) -> None:
        if self.generated:
            say("shapes: drawing the fixed images")
            self.data = generate(root, Config.fromfile(configs / "shapes_ebm.py"), self.num_images)

    def use_data(self, cfg: Config, root: Path, seed: int) -> None:
        use_data(cfg, self.data)
        if cfg.train_dataloader.dataset.type == "ShapesDataset":
            cfg.train_dataloader.dataset.seed += seed

    def measure(
        self, model: nn.Module, cfg: Config, loader: DataLoader, counts: Sequence[int]
    ) -> tuple[dict, list[Climb]]:
        steps, climbs = trace_steps(model, cfg, loader, counts, PICTURED_IMAGES)
        at = dict(zip(counts, steps))
        before, after = milliseconds_with(
            model, loader, (evaluate_only, model.refiner), TIMED_IMAGES
        )
        result = {
            "before": {**at[0], TIME: before},
            "after": {**at[model.refiner.num_steps], TIME: after},
            "steps": [at[count] for count in STEPS],
        }
        return result, climbs

    def draw(self, climbs: Sequence[Climb], cfg: Config, used: int, folder: Path) -> None:
        draw_all(climbs, folder)

    def draw_steps(self, results: Sequence[dict], folder: Path) -> None:
        used, per_seed = results[0]["num_steps"], [result["steps"] for result in results]
        draw_steps(STEPS, per_seed, used, folder / "ap_vs_steps.png")

    def page(self, results: Sequence[dict]) -> tuple[str, str] | None:
        if not self.generated or self.num_images != NUM_IMAGES:
            return None
        seeds = len(results)
        # Results that were written before threads were stored are taken to be of this machine.
        known = [each["threads"] for each in results if "threads" in each]
        threads = known[0] if known else torch.get_num_threads()
        return (
            f"`make demo SEEDS={seeds}`, {threads} CPU threads, mean ± standard "
            f"deviation of {seeds} seeds, {self.num_images['val']} generated images. "
            f"{report.EARLY_STOP}",
            "AP in percent; mean IoU of true positives; ms per image with batch size 1, detector "
            "included.",
        )
