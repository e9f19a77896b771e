"""`make demo`: data, detector, energy head, evaluation, table, pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config

from ebm_mmdet.files import fill_section, read_json, write_json

from . import report
from .data import NUM_IMAGES, USER_IMAGE_SIZE, DemoData, check_folder, generate, use_data
from .evaluate import TIME, load_model, time_per_image, trace_steps, val_loader
from .folder import RESULTS, choose_folder
from .pictures import draw_all, draw_steps
from .screen import quiet, screen, title
from .train import train_stage

STEPS = (0, 1, 2, 3, 5, 7, 10, 15)
PICTURED_IMAGES = 60
TIMED_IMAGES = 40


def run_demo(
    configs: Path,
    out: Path,
    num_seeds: int = 1,
    data: Path | None = None,
    results_page: Path | None = None,
    overrides: dict | None = None,
    num_images: dict[str, int] | None = None,
) -> Path:
    """Run the whole demo; an interrupted run goes on where it was.

    Args:
        configs: Folder with ``shapes_base.py`` and ``shapes_ebm.py``.
        out: Output folder; see `folder.choose_folder` for what happens if it exists.
        num_seeds: Seeds 0 .. num_seeds - 1 train a detector and a head each.
        data: A user's folder (`data.LAYOUT`) instead of generated shapes.
        results_page: Page whose demo table is filled in by runs of several seeds on shapes.
        overrides: ``{"base": {...}, "ebm": {...}}`` merged into the configs.
        num_images: Numbers of generated images, ``{"train": n, "val": n}``.

    Returns:
        The folder with ``results.json``, ``pictures/`` and ``console.log``.

    Raises:
        DataError: `data` is not as expected; raised before anything is written.
        ValueError: Fewer than one seed.
    """
    if num_seeds < 1:
        raise ValueError(f"the number of seeds must be at least 1, got {num_seeds}")
    chosen = check_folder(Path(data).resolve()) if data is not None else None
    settings = {
        "seeds": num_seeds,
        "data": str(chosen.root) if chosen else "shapes",
        "overrides": overrides or {},
        "num_images": num_images or NUM_IMAGES,
    }
    out, note = choose_folder(Path(out), settings)
    console, say = screen()
    if note:
        say(note)
    start = time.monotonic()
    with quiet(out / "console.log"):
        if chosen is None:
            say("shapes: drawing the fixed images")
            cfg = Config.fromfile(configs / "shapes_ebm.py")
            chosen = generate(out / "data", cfg, settings["num_images"])
        results = [
            _run_seed(configs, out, seed, chosen, overrides or {}, say) for seed in range(num_seeds)
        ]
        pictures = out / "pictures"
        used = results[0]["num_steps"]
        per_seed = [result["steps"] for result in results]
        draw_steps(STEPS, per_seed, used, pictures / "ap_vs_steps.png")
    console.print(report.screen_table(results, title(num_seeds)))
    if chosen.generated:
        say(report.EARLY_STOP)
    else:
        say(
            f"Trained from scratch in minutes, images resized to {USER_IMAGE_SIZE} pixels: read "
            "the differences, not the level. A detector of your own comes next: docs."
        )
    if chosen.generated and num_seeds > 1 and not overrides and results_page is not None:
        fill_section(results_page, "demo", _page(results, num_seeds))
        say(f"table written to {results_page}")
    write_json(out / RESULTS, results)  # last: it says that the run is finished
    say(f"pictures: {pictures}")
    say(f"done in {time.monotonic() - start:.0f} s; logs: {out / 'console.log'}")
    return out


def _page(results: list[dict], num_seeds: int) -> str:
    return (
        f"`make demo SEEDS={num_seeds}`, {torch.get_num_threads()} CPU threads, mean ± standard "
        f"deviation of {num_seeds} seeds, {NUM_IMAGES['val']} generated images. "
        f"{report.EARLY_STOP}\n\n"
        + report.markdown_table(results)
        + "\n\nAP in percent; mean IoU of true positives; ms per image with batch size 1, "
        "detector included."
    )


def _config(path: Path, work_dir: Path, seed: int, data: DemoData, overrides: dict) -> Config:
    cfg = Config.fromfile(path)
    use_data(cfg, data)
    cfg.work_dir, cfg.load_from = str(work_dir), None
    cfg.randomness = dict(seed=seed)
    if cfg.train_dataloader.dataset.type == "ShapesDataset":
        cfg.train_dataloader.dataset.seed += seed
    cfg.merge_from_dict(overrides)
    return cfg


def _run_seed(
    configs: Path,
    out: Path,
    seed: int,
    data: DemoData,
    overrides: dict,
    say: Callable[[str], None],
) -> dict:
    folder = out / f"seed{seed}"
    finished = read_json(folder / RESULTS)
    if finished is not None:
        say(f"seed {seed}: measured already ({folder / RESULTS})")
        return finished
    base = _config(
        configs / "shapes_base.py", folder / "detector", seed, data, overrides.get("base", {})
    )
    ebm = _config(
        configs / "shapes_ebm.py", folder / "energy_head", seed, data, overrides.get("ebm", {})
    )
    of_seed = f" (seed {seed})"
    ebm.load_from = str(train_stage(base, "detector" + of_seed, say))
    checkpoint = train_stage(ebm, "energy head, NCE+" + of_seed, say)

    say(f"evaluation{of_seed}: after every step, the zeroth included")
    model, loader = load_model(ebm, str(checkpoint)), val_loader(ebm)
    used = model.refiner.num_steps
    counts = sorted({*STEPS, used})
    steps, climbs = trace_steps(model, ebm, loader, counts, PICTURED_IMAGES)
    at = dict(zip(counts, steps))
    before, after = time_per_image(model, loader, TIMED_IMAGES)
    result = {
        "seed": seed,
        "num_steps": used,
        "before": {**at[0], TIME: before},
        "after": {**at[used], TIME: after},
        "steps": [at[count] for count in STEPS],
    }
    if seed == 0:
        say("pictures")
        draw_all(climbs, out / "pictures")
    write_json(folder / RESULTS, result)
    return result
