"""Does energy refinement pay on this data? One detector, several heads, rivals, error bars.

    export EBM_DATA_ROOT=/path/to/shared
    python tools/analysis_tools/refinement_study.py configs/nuclei/yolox_nano_nuclei_nceplus.py \
        --out work_dirs/nuclei_study --page docs/results.md --section nuclei

Trains heads on cached features of the frozen detector, evaluates every row of the table on the
validation images, and resamples those images for the error of each difference. A second call with
the same folder uses what is there; with other settings it refuses.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from mmdet.utils import register_all_modules
from mmengine.config import Config, DictAction

import ebm_mmdet  # noqa: F401  (registers our types)
from ebm_mmdet.engine.command_line import merge_options
from ebm_mmdet.files import fill_section, markdown_table
from lab.studies import METRICS, StudySettings, metric_cell, run_study


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = StudySettings()
    parser.add_argument("config", help="config of an EBMDetector with load_from and fit_dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder of this study")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(default.seeds))
    parser.add_argument("--rounds", type=int, default=default.rounds, help="versions per image")
    parser.add_argument("--boxes", type=int, default=default.boxes_per_iteration, help="per step")
    parser.add_argument("--prior-k", type=float, default=default.prior_k)
    parser.add_argument("--resamples", type=int, default=default.resamples)
    parser.add_argument("--no-rivals", action="store_true", help="leave the L1 heads out")
    parser.add_argument("--page", type=Path, help="Markdown page that gets the table")
    parser.add_argument("--section", help="name of the markers on that page")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    options = parser.parse_args(arguments)
    if (options.page is None) != (options.section is None):
        parser.error("--page and --section belong together")
    return options


def table(rows: list[dict]) -> str:
    """All rows as Markdown."""
    header = ["", "heads", *METRICS, "training, s", "refining, ms per image"]
    lines = []
    for row in rows:
        training = "" if row["training_s"] is None else f"{row['training_s']:.0f}"
        values = [metric_cell(row, metric) for metric in METRICS]
        lines.append(
            [row["method"], str(row["runs"]), *values, training, f"{row['ms_per_image']:.0f}"]
        )
    return markdown_table(header, lines)


def describe(report: dict) -> str:
    """What the reader of the table has to know."""
    settings = report["settings"]
    std = ", ".join(f"{value:.4f}" for value in report["residual_std"])
    return (
        f"Head seeds {', '.join(map(str, settings['seeds']))}; {settings['rounds']} augmented "
        f"versions per training image, {settings['boxes_per_iteration']} boxes per iteration; "
        f"{report['threads']} CPU threads. Detection takes "
        f"{report['detection_ms_per_image']:.0f} ms per image (median), to which the last column "
        "adds. Values are means over seeds, in percent; in brackets the change against the first "
        f"row ± its bootstrap error over images ({settings['resamples']} resamples). Residuals "
        f"on the training images, for the prior: std ({std})."
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""
    options = parse_arguments(arguments)
    register_all_modules()
    cfg = Config.fromfile(options.config)
    merge_options(cfg, options.cfg_options, {"fit_dataset"})
    settings = StudySettings(
        tuple(options.seeds),
        options.rounds,
        options.boxes,
        options.prior_k,
        options.resamples,
        rivals=not options.no_rivals,
    )
    report = run_study(cfg, options.out, settings, say=lambda line: print(line, flush=True))
    text = describe(report) + "\n\n" + table(report["rows"])
    print(text)
    if options.page:
        command = shlex.join(["python", "tools/analysis_tools/refinement_study.py", *sys.argv[1:]])
        fill_section(options.page, options.section, f"`{command}`\n\n{text}")


if __name__ == "__main__":
    main()
