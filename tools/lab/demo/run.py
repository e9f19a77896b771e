"""`make demo` and `make demo3d`: data, detector, energy head, evaluation, table, pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config
from rich.table import Table

from ebm_mmdet.files import fill_section, read_json, write_json

from . import report
from .evaluate import load_model, val_loader
from .folder import RESULTS
from .screen import title
from .train import train_stage
from .whole_run import whole_run
from .world import STEPS, World

__all__ = ["run_demo"]


def run_demo(
    world: World,
    configs: Path,
    out: Path,
    num_seeds: int = 1,
    page: Path | None = None,
    overrides: dict | None = None,
) -> Path:
    """Run the whole demo of a world; an interrupted run is continued.

    Args:
        world: `ShapesWorld` or `LidarWorld`.
        configs: Folder with ``<world.configs>_base.py`` and ``<world.configs>_ebm.py``.
        out: Output folder; `folder.choose_folder` describes what happens if it exists.
        num_seeds: For each of the seeds 0 .. num_seeds - 1 a detector and a head are trained.
        page: Page in which the table of this demo is filled in.
        overrides: ``{"base": {...}, "ebm": {...}}`` merged into the configs.

    Returns:
        The folder with ``results.json``, ``pictures/`` and ``console.log``. With a page, that of a
        finished run with the same settings in ``out``, from which the page is filled in.

    Raises:
        ValueError: There is less than one seed; or a page is given, but this run is not the
            published one.
    """
    overrides = overrides or {}
    if num_seeds < 1:
        raise ValueError(f"the number of seeds must be at least 1, got {num_seeds}")
    if page is not None and (num_seeds == 1 or overrides or world.page([]) is None):
        raise ValueError(
            f"the table of {page} shows the spread over several seeds of the unchanged demo, but "
            f"this run has {num_seeds} seed(s), overrides {overrides} and settings "
            f"{world.settings()}; leave the page out, or use 3 seeds and no other change"
        )
    settings = {"seeds": num_seeds, "overrides": overrides, **world.settings()}

    def make(folder: Path, say: Callable[[str], None]) -> list[dict]:
        with world.quiet():
            world.prepare(folder / "data", configs, say)
            results = [
                _run_seed(world, configs, folder, seed, overrides, say) for seed in range(num_seeds)
            ]
            world.draw_steps(results, folder / "pictures")
        return results

    def show(results: list[dict]) -> tuple[Table, str]:
        return report.screen_table(results, title(num_seeds)), world.before_after

    return whole_run(out, settings, make, show, page, partial(_fill_page, world))


def _fill_page(world: World, page: Path, results: list[dict]) -> None:
    above, below = world.page(results)
    fill_section(page, world.name, f"{above}\n\n{report.markdown_table(results)}\n\n{below}")


def _run_seed(
    world: World,
    configs: Path,
    out: Path,
    seed: int,
    overrides: dict,
    say: Callable[[str], None],
) -> dict:
    folder = out / f"seed{seed}"
    finished = read_json(folder / RESULTS)
    if finished is not None:
        say(f"seed {seed}: measured already ({folder / RESULTS})")
        return finished

    def config(part: str, name: str) -> Config:
        cfg = Config.fromfile(configs / f"{world.configs}_{part}.py")
        world.use_data(cfg, out / "data", seed)
        cfg.work_dir, cfg.load_from = str(folder / name), None
        cfg.randomness = dict(seed=seed)
        cfg.merge_from_dict(overrides.get(part, {}))
        return cfg

    base, ebm = config("base", "detector"), config("ebm", "energy_head")
    of_seed = f" (seed {seed})"
    ebm.load_from = str(train_stage(base, "detector" + of_seed, say))
    checkpoint = train_stage(ebm, f"energy head, {world.objective}{of_seed}", say)

    say(f"evaluation{of_seed}: after every number of steps, including none")
    model, loader = load_model(ebm, str(checkpoint)), val_loader(ebm)
    used = model.refiner.num_steps
    measured, climbs = world.measure(model, ebm, loader, sorted({*STEPS, used}))
    result = {
        "seed": seed,
        "num_steps": used,
        "threads": torch.get_num_threads(),
        **measured,
    }
    if seed == 0:
        say("pictures")
        world.draw([climb.until(used) for climb in climbs], ebm, used, out / "pictures")
    write_json(folder / RESULTS, result)
    return result
