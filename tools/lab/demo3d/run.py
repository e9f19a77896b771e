"""`make demo3d`: scenes, detector, energy head, evaluation, table, pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config

from dataset_converters.progress_bars import no_progress_bars
from ebm_mmdet.files import fill_section, read_json, write_json

from ..demo import report
from ..demo.evaluate import load_model, val_loader
from ..demo.folder import RESULTS, choose_folder
from ..demo.screen import quiet, screen, title
from ..demo.train import train_stage
from .data import NUM_SCENES, generate, use_data
from .evaluate import TIME, time_per_frame, trace_steps
from .pictures import draw_all, draw_steps

__all__ = ["run_demo3d"]

STEPS = (0, 1, 2, 3, 5, 7, 10, 15)
TIMED_FRAMES = 25


def run_demo3d(
    configs: Path,
    out: Path,
    num_seeds: int = 1,
    results_page: Path | None = None,
    overrides: dict | None = None,
    num_scenes: int | None = None,
) -> Path:
    """Run the whole demo; an interrupted run goes on where it was.

    Args:
        configs: Folder with ``lidar_base.py`` and ``lidar_ebm.py``.
        out: Output folder; see `choose_folder` for what happens if it exists.
        num_seeds: Seeds 0 .. num_seeds - 1 train a detector and a head each.
        results_page: Page whose table of this demo is filled in by runs of several seeds.
        overrides: ``{"base": {...}, "ebm": {...}}`` merged into the configs.
        num_scenes: Number of scenes that are measured on.

    Returns:
        The folder with ``results.json``, ``pictures/`` and ``console.log``.

    Raises:
        ValueError: Fewer than one seed.
    """
    if num_seeds < 1:
        raise ValueError(f"the number of seeds must be at least 1, got {num_seeds}")
    settings = {
        "seeds": num_seeds,
        "overrides": overrides or {},
        "num_scenes": num_scenes or NUM_SCENES,
    }
    out, note = choose_folder(Path(out), settings)
    console, say = screen()
    if note:
        say(note)
    start = time.monotonic()
    with quiet(out / "console.log"), no_progress_bars():
        say(f"scenes: generating the {settings['num_scenes']} that are measured on")
        generate(out / "data", Config.fromfile(configs / "lidar_base.py"), settings["num_scenes"])
        results = [_run_seed(configs, out, seed, overrides or {}, say) for seed in range(num_seeds)]
        draw_steps(results, out / "pictures" / "ap_and_time_vs_steps.png")
    console.print(report.screen_table(results, title(num_seeds)))
    say(report.EARLY_STOP)
    if num_seeds > 1 and not overrides and results_page is not None:
        fill_section(results_page, "demo3d", _page(results, settings["num_scenes"]))
        say(f"table written to {results_page}")
    write_json(out / RESULTS, results)  # last: it says that the run is finished
    say(f"pictures: {out / 'pictures'}")
    say(f"done in {time.monotonic() - start:.0f} s; logs: {out / 'console.log'}")
    return out


def _page(results: list[dict], num_scenes: int) -> str:
    seeds = len(results)
    return (
        f"`make demo3d SEEDS={seeds}`, 2 CPU cores, mean ± standard deviation of {seeds} seeds, "
        f"{num_scenes} generated scenes, cars. {report.EARLY_STOP}\n\n"
        + report.markdown_table(results)
        + "\n\nAP at 40 recall positions, moderate difficulty, in percent; mean 3D IoU of the "
        "detections that met an object; ms per frame with batch size 1, detector included."
    )


def _config(path: Path, work_dir: Path, seed: int, data: Path, overrides: dict) -> Config:
    cfg = Config.fromfile(path)
    use_data(cfg, data)
    cfg.work_dir, cfg.load_from = str(work_dir), None
    cfg.randomness = dict(seed=seed)
    cfg.train_dataloader.dataset.seed += seed
    cfg.merge_from_dict(overrides)
    return cfg


def _run_seed(
    configs: Path, out: Path, seed: int, overrides: dict, say: Callable[[str], None]
) -> dict:
    folder, data = out / f"seed{seed}", out / "data"
    finished = read_json(folder / RESULTS)
    if finished is not None:
        say(f"seed {seed}: measured already ({folder / RESULTS})")
        return finished
    base, ebm = (
        _config(configs / f"lidar_{part}.py", folder / name, seed, data, overrides.get(part, {}))
        for part, name in (("base", "detector"), ("ebm", "energy_head"))
    )
    of_seed = f" (seed {seed})"
    ebm.load_from = str(train_stage(base, "detector" + of_seed, say))
    checkpoint = train_stage(ebm, "energy head, NCE" + of_seed, say)

    say(f"evaluation{of_seed}: after every step, the zeroth included")
    model, loader = load_model(ebm, str(checkpoint)), val_loader(ebm)
    used = model.refiner.num_steps
    counts = sorted({*STEPS, used})
    steps, climbs = trace_steps(model, ebm, loader, counts)
    milliseconds = time_per_frame(model, loader, counts, TIMED_FRAMES)
    row = counts.index(used)
    result = {
        "seed": seed,
        "num_steps": used,
        "before": {**steps[0], TIME: milliseconds[0]},
        "after": {**steps[row], TIME: milliseconds[row]},
        "at": counts,
        "steps": steps,
        "milliseconds": milliseconds,
    }
    if seed == 0:
        say("pictures")
        x1, y1, _, x2, y2, _ = base.point_cloud_range
        shown = [climb._replace(path=climb.path[: used + 1]) for climb in climbs]
        draw_all(shown, (x1, y1, x2, y2), out / "pictures")
    write_json(folder / RESULTS, result)
    return result
