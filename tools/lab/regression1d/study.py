"""The study: many runs, several at a time, then tables and pictures of all finished runs."""

from __future__ import annotations

import copy
import io
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ebm_mmdet.files import fill_section, read_json, write_text

from .fused import kernel_is_available
from .methods import PAPER_METHODS, PROPOSAL_METHODS, SWEPT_METHODS, method_config
from .pictures import draw_all
from .report import page_sections, screen_tables, write_csv
from .runs import Run, StudyError, claim, execute
from .training import Interrupted, Settings

__all__ = ["plan", "read_config", "run_all", "run_study"]

_GROUPS = {"all": PAPER_METHODS, "proposals": PROPOSAL_METHODS}
_PRESETS = {
    "quick": {"methods": ["all"], "num_samples": [256], "models": 5, "epochs": 12},
    "paper": {"methods": SWEPT_METHODS, "num_samples": [1024], "models": 20, "epochs": 75},
}


def run_study(
    preset: str = "quick",
    methods: Sequence[str] | None = None,
    configs: Sequence[Path] = (),
    datasets: Sequence[str] = ("1", "2"),
    num_samples: Sequence[int] | None = None,
    models: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    jobs: int | None = None,
    out: Path | None = None,
    page: Path | None = None,
    report_only: bool = False,
) -> Path:
    """Run methods on data sets; write results, a table and pictures.

    Args:
        preset: ``"quick"`` or ``"paper"``, the values of the arguments that are None.
        methods: names, ``"all"`` or ``"proposals"``; by default none if there are ``configs``.
        configs: files that describe further methods, see :func:`read_config`.
        datasets: ``"1"``, ``"2"``, ``"umal"``.
        num_samples: values of M, see :func:`plan`.
        models: models per run.
        epochs: number of training epochs.
        seed: seed of every run.
        jobs: number of runs at a time; by default one per core.
        out: folder, ``work_dirs/regression1d/<preset>`` by default. Finished runs in it are kept.
        page: Markdown page whose tables are filled in.
        report_only: run nothing; only make tables and pictures of finished runs.

    Returns:
        The folder, with ``runs/``, ``results.csv``, ``results.txt`` and ``figures/``. All but the
        first are made again from everything in ``runs``.

    Raises:
        StudyError: the folder has runs of the same name with other settings, or no finished run
            to report.
        ValueError: a method is unknown.
    """
    chosen = _PRESETS[preset]
    out = out or Path("work_dirs", "regression1d", preset)
    if methods is None:
        methods = [] if configs else chosen["methods"]
    names = [name for method in methods for name in _GROUPS.get(method, [method])]
    settings = Settings(
        epochs=epochs or chosen["epochs"], models=models or chosen["models"], seed=seed
    )
    runs = plan(names, datasets, num_samples or chosen["num_samples"], settings)
    for path in configs:
        runs += [Run(path.stem, d, read_config(path, d), settings) for d in datasets]

    console, start = Console(file=sys.stdout, highlight=False), time.monotonic()
    if not report_only:
        jobs = min(jobs or _cores(), len(runs))
        console.print(f"{len(runs)} runs of {settings.models} models, {jobs} at a time; {out}")
        run_all(runs, out, jobs, console)
    _report(out, page, console)
    console.print(f"done in {time.monotonic() - start:.0f} s")
    return out


def _report(out: Path, page: Path | None, console: Console) -> None:
    """Make tables and pictures of all finished runs in a folder."""
    results = [read_json(path) for path in sorted(out.glob("runs/*/*/result.json"))]
    if not results:
        raise StudyError(f"{out} holds no finished run; there is nothing to report.")
    write_csv(out / "results.csv", results)
    tables, text = screen_tables(results), io.StringIO()
    # The tables are wider than the 80 columns of an output that is not a terminal.
    for target in (sys.stdout, text):
        Console(file=target, width=max(console.width, 160)).print(*tables)
    write_text(out / "results.txt", text.getvalue())
    pictures = draw_all(results, out)
    if page is not None:
        for name, content in page_sections(results).items():
            fill_section(page, name, content)
        console.print(f"tables written to {page}")
    console.print(f"{out / 'results.csv'} and {len(pictures)} pictures in {out / 'figures'}")


def read_config(path: Path, dataset: str) -> dict:
    """Read the description of a method, in the format of ``method_config``, from a config file.

    The file has ``method = dict(num_samples=..., objective=dict(...), mixture=dict(...))``, and may
    have ``per_dataset = {name: dict(...)}``, which is merged into it for one data set. The method
    is named after the file.

    Raises:
        StudyError: the file has no ``method``.
    """
    from mmengine.config import Config

    cfg = Config.fromfile(path)
    if "method" not in cfg:
        raise StudyError(f"{path} has no `method = dict(...)`; see configs/regression1d.")
    changes = cfg.get("per_dataset", {}).get(dataset, {})
    method = Config(copy.deepcopy(cfg.method.to_dict()))
    method.merge_from_dict(changes)
    return method.to_dict()


def plan(
    methods: Sequence[str],
    datasets: Sequence[str],
    num_samples: Sequence[int],
    settings: Settings,
) -> list[Run]:
    """The runs of a study, the longest first.

    Args:
        methods: names, see :mod:`.methods`.
        datasets: names of data sets.
        num_samples: values of M; ML-IS, KLD-IS, NCE and NCE+ are run with all of them, the others
            with the largest.
        settings: settings of every run.

    Raises:
        ValueError: a method is unknown.
    """
    runs: dict[str, Run] = {}
    for method in methods:
        for m in num_samples if method in SWEPT_METHODS else [max(num_samples)]:
            for dataset in datasets:
                run = Run(method, dataset, method_config(method, dataset, m), settings)
                runs[run.name] = run
    return sorted(runs.values(), key=lambda run: -run.cost)


def run_all(runs: Sequence[Run], out: Path, jobs: int, console: Console) -> list[dict]:
    """Execute runs, ``jobs`` at a time, each on one core; finished ones are not run again.

    Runs are threads of this process, because they spend nearly all their time in code that releases
    the interpreter lock. One thread per run also makes the numbers independent of ``jobs``.

    Returns:
        The results, in the order of ``runs``.

    Raises:
        StudyError: a folder has another run of the same name; raised before anything is run.
        KeyboardInterrupt: after all runs have stopped; the next call continues them.
    """
    for run in runs:
        claim(run, out)
    kernel_is_available()  # compiled before the threads start, which would all wait for it
    stop, threads_before = threading.Event(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            _progress(console) as progress,
            ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            everything = progress.add_task("epochs of all runs", total=_epochs(runs))
            futures = [pool.submit(_one, run, out, progress, everything, stop) for run in runs]
            try:
                _wait(futures)
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        return [future.result() for future in futures]
    finally:
        torch.set_num_threads(threads_before)


def _wait(futures: list[Future]) -> None:
    """Return when all are done; raise the error of the first one that failed."""
    for future in wait(futures, return_when=FIRST_EXCEPTION).done:
        future.result()


def _epochs(runs: Sequence[Run]) -> int:
    return sum(run.settings.epochs for run in runs)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _one(run: Run, out: Path, progress: Progress, everything, stop: threading.Event) -> dict:
    """Execute a run with its progress bar."""
    if stop.is_set():
        raise Interrupted
    already = read_json(run.folder(out) / "result.json") is not None
    task = progress.add_task(run.name, total=run.settings.epochs, visible=not already)
    before = 0

    def on_epoch(epoch: int) -> None:
        nonlocal before
        progress.update(task, completed=epoch)
        progress.advance(everything, epoch - before)
        before = epoch

    try:
        result = execute(run, out, on_epoch, stop)
    finally:
        progress.remove_task(task)
    state = "measured before" if already else f"{result['ms_per_step']:.0f} ms per step"
    progress.console.print(f"{run.name}: done ({state})", markup=False)
    return result


def _cores() -> int:
    """One run per core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
