"""`make demo-regression`: train three methods on generated images, compare, draw."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

from ebm_mmdet.files import read_json, write_json
from ebm_mmdet.regression import draw_prediction
from ebm_mmdet.visualization import save_figure

from ..demo.folder import RESULTS, choose_folder
from ..demo.screen import quiet, screen
from .methods import METHODS
from .report import GROUPS, task_table
from .runs import Run, trained
from .study import plan, run_all

__all__ = ["draw_examples", "run_demo"]

DEMO_TASKS = ("cells", "road", "head")
DEMO_METHODS = ("direct", "gaussian", "ebm_mdn")
TITLES = {
    "cells": "How many cells, if with chance 0.3 every one hides a twin?",
    "road": "At what angle is the steering wheel?",
    "head": "Which way does the translucent head look?",
    "rings": "How old was the tree, of which a part was sawn off?",
}
EXAMPLES = 3
LEFT_OUT = ("seeds", "RMSE", "QCE", "width at 90")
"""Columns of the study that the screen has no room for."""


def run_demo(
    out: Path,
    jobs: int = 2,
    tasks: Sequence[str] = DEMO_TASKS,
    methods: Sequence[str] = DEMO_METHODS,
    changes: Mapping[str, object] | None = None,
) -> Path:
    """Run the demo; an interrupted one is continued.

    Args:
        out: Output folder; `lab.demo.folder.choose_folder` describes what happens if it exists.
        jobs: Number of trainings at a time, on one core each.
        tasks: Names of generated tasks.
        methods: Names of methods; the last one is drawn.
        changes: Changes of every config, by dotted key.

    Returns:
        The folder with ``results.json``, ``pictures/`` and ``runs/``.
    """
    settings = {"tasks": list(tasks), "methods": list(methods), "changes": dict(changes or {})}
    out, note = choose_folder(Path(out), settings)
    console, say = screen()
    if note:
        say(note)
    start = time.monotonic()
    runs = plan(tasks, methods, [0], changes)
    run_all(runs, out, jobs, say)
    results = [read_json(run.folder(out) / "result.json") for run in runs]
    for task in tasks:
        # Wider than the 80 columns of an output that is not a terminal.
        Console(file=console.file, width=max(console.width, 140)).print(screen_table(results, task))
        drawn = Run(task, methods[-1], 0, dict(changes or {}))
        with quiet(out / "console.log"):
            draw_examples(drawn, out, out / "pictures")
    write_json(out / RESULTS, results)  # last, because it marks the run as finished
    say(f"pictures of {METHODS[methods[-1]].label}: {out / 'pictures'}")
    say(f"done in {time.monotonic() - start:.0f} s; logs beside the checkpoints in {out / 'runs'}")
    return out


def screen_table(results: Sequence[dict], task: str) -> Table:
    """The table of a task for the screen."""
    header, lines = task_table(results, task)
    shown = [i for i, name in enumerate(header) if name not in LEFT_OUT]
    table = Table(title=TITLES[task])
    for i in shown:
        table.add_column(header[i], justify="right" if i else "left", no_wrap=not i)
    for line in lines:
        table.add_row(*(line[i] for i in shown))
    return table


def draw_examples(run: Run, out: Path, folder: Path, count: int = EXAMPLES) -> list[Path]:
    """Draw predictions for some test images: first those of the task's ambiguous group.

    Args:
        run: A finished run.
        out: The folder that it is in.
        folder: Where the pictures go, as ``<task>_<number>.png``.
        count: Number of pictures.
    """
    model, cfg = trained(run, out)
    dataset = Runner.build_dataloader(cfg.test_dataloader, seed=0).dataset
    found, others = [], []
    for index in range(min(len(dataset), 50)):
        group = dataset.get_data_info(index).get("group")
        (found if group == GROUPS.get(run.task) else others).append(index)
    chosen = (found[: count - 1] + others)[:count] if others else found[:count]
    paths = []
    for number, index in enumerate(chosen):
        item = dataset[index]
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([item]))[0]
        image = item["inputs"].flip(0).permute(1, 2, 0).numpy()
        figure = draw_prediction(
            image, sample.to_dict(), dataset.metainfo["target"], TITLES[run.task]
        )
        paths.append(save_figure(figure, folder / f"{run.task}_{number}.png"))
    return paths
