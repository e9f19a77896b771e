r"""Which objective trains the energy head best? Several recipes on one frozen detector.

    export EBM_DATA_ROOT=/path/to/shared
    python tools/analysis_tools/objective_study.py \
        configs/nuclei/yolox_nano_nuclei_{nce,nceplus,mlis,kldis,mlmcmc,sm,dsm}.py \
        --out work_dirs/objective_study --page docs/results.md --section objectives

Every recipe trains on the same cached features and is evaluated by the same two rules: short
steps, and the mode with a prior, which needs no step length. Costs are relative to the first
recipe. A second call with the same folder uses what is there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from mmdet.utils import register_all_modules
from mmengine.config import Config, DictAction

import ebm_mmdet  # noqa: F401  (registers our types)
from ebm_mmdet.engine.command_line import merge_options
from ebm_mmdet.files import fill_section, markdown_table
from lab.studies import StudySettings, compare_recipes, metric_cell

METRICS = ("AP", "AP50", "AP75", "AP90")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = StudySettings()
    parser.add_argument("configs", nargs="+", help="recipes; the first one sets the unit of cost")
    parser.add_argument("--out", type=Path, required=True, help="folder of this study")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(default.seeds))
    parser.add_argument("--rounds", type=int, default=default.rounds, help="versions per image")
    parser.add_argument("--boxes", type=int, default=default.boxes_per_iteration, help="per step")
    parser.add_argument("--prior-k", type=float, default=default.prior_k)
    parser.add_argument("--resamples", type=int, default=default.resamples)
    parser.add_argument("--page", type=Path, help="Markdown page that gets the table")
    parser.add_argument("--section", help="name of the markers on that page")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="for every recipe")
    options = parser.parse_args(arguments)
    if (options.page is None) != (options.section is None):
        parser.error("--page and --section belong together")
    return options


def recipe_names(paths: list[str]) -> list[str]:
    """What tells the files apart: the stems without their common beginning."""
    stems = [Path(path).stem for path in paths]
    common = os.path.commonprefix(stems) if len(stems) > 1 else ""
    common = common[: common.rfind("_") + 1]
    return [stem.removeprefix(common) for stem in stems]


def table(rows: list[dict]) -> str:
    """Two rows per recipe as Markdown."""

    def text(value: float | None, form: str = ".2f") -> str:
        return "" if value is None else f"{value:{form}}"

    header = ["rule", *METRICS, "loss, first and last tenth", "training, s", "cost"]
    lines = []
    for row in rows:
        cells = [metric_cell(row, metric) for metric in METRICS]
        losses = "" if row["cost"] is None else f"{row['first_loss']:.2f}, {row['last_loss']:.2f}"
        name = f"**{row['recipe']}**, {row['method']}" if row["recipe"] else row["method"]
        lines.append([name, *cells, losses, text(row["training_s"], ".0f"), text(row["cost"])])
    return markdown_table(header, lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the comparison."""
    options = parse_arguments(arguments)
    register_all_modules()
    cfgs = {}
    for name, path in zip(recipe_names(options.configs), options.configs):
        cfgs[name] = Config.fromfile(path)
        merge_options(cfgs[name], options.cfg_options, {"fit_dataset"})
    settings = StudySettings(
        tuple(options.seeds), options.rounds, options.boxes, options.prior_k, options.resamples
    )
    report = compare_recipes(cfgs, options.out, settings, say=lambda line: print(line, flush=True))
    text = (
        f"Head seeds {', '.join(map(str, options.seeds))}; {options.rounds} augmented versions per "
        f"training image, {options.boxes} boxes per iteration; {report['threads']} CPU threads. "
        "Values are means over seeds, in percent; in brackets the change against the first row ± "
        f"its bootstrap error over images ({options.resamples} resamples). Cost is training time "
        f"relative to the first recipe.\n\n{table(report['rows'])}"
    )
    print(text)
    if options.page:
        command = shlex.join(["python", "tools/analysis_tools/objective_study.py", *sys.argv[1:]])
        fill_section(options.page, options.section, f"`{command}`\n\n{text}")


if __name__ == "__main__":
    main()
