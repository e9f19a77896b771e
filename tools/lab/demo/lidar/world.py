"""`make demo3d`: a small PointPillars and its energy head on generated LiDAR scenes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader

from dataset_converters.progress_bars import no_progress_bars

from .. import report
from ..climb import Climb
from ..evaluate import changed, milliseconds_with
from .data import NUM_SCENES, generate, use_data
from .evaluate import TIME, trace_steps
from .pictures import draw_all, draw_steps

__all__ = ["LidarWorld"]

TIMED_FRAMES = 25


class LidarWorld:
    """See `lab.demo.world.World`.

    Args:
        num_scenes: Number of evaluation scenes.
    """

    name, configs, objective = "demo3d", "lidar", "NCE"
    before_after = report.EARLY_STOP

    def __init__(self, num_scenes: int | None = None) -> None:
        self.num_scenes = num_scenes or NUM_SCENES

    def settings(self) -> dict:
        return {"num_scenes": self.num_scenes}

    def quiet(self) -> contextlib.AbstractContextManager:
        return no_progress_bars()

    def prepare(self, root: Path, configs: Path, say: Callable[[str], None]) -> None:
        say(f"scenes: generating {self.num_scenes} for the evaluation")
        generate(root, Config.fromfile(configs / "lidar_base.py"), self.num_scenes)

    def use_data(self, cfg: Config, root: Path, seed: int) -> None:
        use_data(cfg, root)
        cfg.train_dataloader.dataset.seed += seed

    def measure(
        self, model: nn.Module, cfg: Config, loader: DataLoader, counts: Sequence[int]
    ) -> tuple[dict, list[Climb]]:
        steps, climbs = trace_steps(model, cfg, loader, counts)
        # Zero steps mean the detector and one evaluation of f.
        first = model.refiner.regression_steps
        refiners = [
            changed(model.refiner, num_steps=count, regression_steps=first if count else 0)
            for count in counts
        ]
        milliseconds = milliseconds_with(model, loader, refiners, TIMED_FRAMES)
        row = counts.index(model.refiner.num_steps)
        result = {
            "before": {**steps[0], TIME: milliseconds[0]},
            "after": {**steps[row], TIME: milliseconds[row]},
            "at": list(counts),
            "steps": steps,
            "milliseconds": milliseconds,
        }
        return result, climbs

    def draw(self, climbs: Sequence[Climb], cfg: Config, used: int, folder: Path) -> None:
        x1, y1, _, x2, y2, _ = cfg.point_cloud_range
        draw_all(climbs, (x1, y1, x2, y2), folder)

    def draw_steps(self, results: Sequence[dict], folder: Path) -> None:
        draw_steps(results, folder / "ap_and_time_vs_steps.png")

    def page(self, results: Sequence[dict]) -> tuple[str, str] | None:
        if self.num_scenes != NUM_SCENES:
            return None
        seeds = len(results)
        return (
            f"`make demo3d SEEDS={seeds}`, 2 CPU cores, mean ± standard deviation of {seeds} "
            f"seeds, {self.num_scenes} generated scenes, cars. {report.EARLY_STOP}",
            "AP at 40 recall positions, moderate difficulty, in percent; mean 3D IoU of the "
            "detections that match an object; ms per frame with batch size 1, detector included.",
        )
