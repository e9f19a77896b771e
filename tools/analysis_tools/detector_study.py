r"""Which detector, and which way to test it, is worth its price? One command, one table.

    export EBM_DATA_ROOT=/path/to/shared
    python tools/analysis_tools/detector_study.py configs/nuclei/kl_study.yaml \
        --out work_dirs/kl_study_nuclei --page docs/results.md --section kl_loss

The study file lists the rows. Every detector is trained once per seed and shared by the rows that
only test it in another way; energy heads are trained on cached features of the detector of the
same seed. A second call with the same folder goes on where the first one was interrupted, and uses
what is there; with another recipe it refuses.
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
from lab.demo.data import NUM_IMAGES, generate
from lab.studies import DetectorRow, StudySettings, compare_detectors, metric_cell

METRICS = ("AP", "AP50", "AP75", "AP90")
KEYS = {"rows", "rounds", "boxes", "shapes"}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = StudySettings()
    parser.add_argument("study", type=Path, help="study file, such as configs/nuclei/kl_study.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder of this study")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(default.seeds))
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="some rows, by config name")
    parser.add_argument("--resamples", type=int, default=default.resamples)
    parser.add_argument("--page", type=Path, help="Markdown page that gets the table")
    parser.add_argument("--section", help="name of the markers on that page")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="for every config")
    options = parser.parse_args(arguments)
    if (options.page is None) != (options.section is None):
        parser.error("--page and --section belong together")
    return options


def read_study(
    path: Path, options: argparse.Namespace
) -> tuple[list[DetectorRow], dict[str, Config], StudySettings]:
    """Rows, their configs by name, and settings; draws the generated images if the study asks.

    Raises:
        ValueError: an unknown key, or ``--rows`` names a config that no row has.
    """
    study = Config.fromfile(path)
    if unknown := set(study) - KEYS:
        raise ValueError(f"{path} has unknown keys {sorted(unknown)}; known: {sorted(KEYS)}")
    rows = [
        DetectorRow(row["name"], Path(row["config"]).stem, Path(row.get("trained_as", "")).stem)
        for row in study.rows
    ]
    files = [row[key] for row in study.rows for key in ("config", "trained_as") if key in row]
    if options.rows:
        known = [row.config for row in rows]
        if unknown := set(options.rows) - set(known):
            raise ValueError(f"--rows {sorted(unknown)}: the study has {known}")
        rows = [row for row in rows if row.config in options.rows]
    cfgs = {}
    for file in dict.fromkeys(files):
        cfg = cfgs[Path(file).stem] = Config.fromfile(path.parent / file)
        merge_options(cfg, options.cfg_options)
    default = StudySettings()
    settings = StudySettings(
        seeds=tuple(options.seeds),
        rounds=study.get("rounds", default.rounds),
        boxes_per_iteration=study.get("boxes", default.boxes_per_iteration),
        resamples=options.resamples,
    )
    if study.get("shapes"):
        root = Path(cfgs[rows[0].config].data_root)
        generate(root, Config.fromfile(path.parent / study.shapes), NUM_IMAGES)
    return rows, cfgs, settings


def table(rows: list[dict]) -> str:
    """All rows as Markdown."""

    def text(value: float | None, form: str) -> str:
        return "" if value is None else f"{value:{form}}"

    header = ["", *METRICS, "ms per image", "parameters, M", "NLL", "ECE", "training, s"]
    lines = []
    for row in rows:
        cells = [metric_cell(row, metric) for metric in METRICS]
        cells += [f"{row['ms_per_image']:.0f}", f"{row['params'] / 1e6:.2f}"]
        cells += [text(row["nll"], ".2f"), text(row["ece"], ".3f"), text(row["training_s"], ".0f")]
        lines.append([row["method"], *cells])
    return markdown_table(header, lines)


def describe(report: dict) -> str:
    """What the reader of the table has to know."""
    settings = report["settings"]
    return (
        f"Seeds {', '.join(map(str, settings['seeds']))}, {report['images']} validation images, "
        f"{report['threads']} CPU threads. Values are means over seeds, in percent; in brackets "
        "the change against the first row ± its bootstrap error over images "
        f"({settings['resamples']} resamples, paired). Times: the whole detector with batch size "
        "1, rows in turns on each image. Training: detector and, where there is one, energy head "
        f"(on cached features of {settings['rounds']} versions of each image). NLL (of encoded "
        "coordinates, in nats) and expected calibration error of the sides, over detections that "
        "found an object, where a row says how sure it is."
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the comparison."""
    options = parse_arguments(arguments)
    register_all_modules()
    rows, cfgs, settings = read_study(options.study, options)
    screen = sys.stdout

    def say(line: str) -> None:
        print(line, file=screen, flush=True)

    report = compare_detectors(cfgs, rows, options.out, settings, say)
    text = f"{describe(report)}\n\n{table(report['rows'])}"
    print(text)
    if options.page:
        command = shlex.join(["python", "tools/analysis_tools/detector_study.py", *sys.argv[1:]])
        fill_section(options.page, options.section, f"`{command}`\n\n{text}")


if __name__ == "__main__":
    main()
