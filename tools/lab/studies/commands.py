"""The functions that `tools/study.py` calls, from a study file to a table."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config

from ..demo.shapes.data import NUM_IMAGES, generate
from ..study_arguments import RIVALS
from .detectors import compare_detectors
from .recipes import compare_recipes
from .study import StudySettings, run_study
from .study_file import Study, StudyFileError, read_study
from .tables import detectors_page, objectives_page, refinement_page

__all__ = ["compare"]


def compare(
    kind: str,
    path: Path,
    out: Path,
    rows: Collection[str] = (),
    cfg_options: Mapping[str, object] | None = None,
    data_root: Path | None = None,
    rivals: Sequence[str] = RIVALS,
    jobs: int = 1,
    **settings,
) -> tuple[dict, str]:
    """Run a study.

    Args:
        kind: ``refinement``, ``objectives`` or ``detectors``.
        path: Study file, or a config.
        out: Folder of the study; see the function of each kind.
        rows: Names of some rows; empty for all.
        cfg_options: Dotted keys and values for every config.
        data_root: Folder with the data, in place of the configs' `data_root`.
        rivals: Kinds of heads to compare with, some of `RIVALS`; for ``refinement``.
        jobs: Trainings at a time, for ``detectors``.
        **settings: ``seeds``, ``rounds``, ``boxes``, ``prior_k``, ``methods``, ``resamples``
            instead of those of the study file or of `StudySettings`.

    Returns:
        The content of ``results.json``, and the table with its description in Markdown.

    Raises:
        StudyFileError: See `read_study`; or a study of one detector gets several rows.
        FileExistsError: `out` has a study with other settings.
    """
    study = read_study(path, rows, cfg_options, data_root)
    chosen = _settings(study, rivals, settings)
    if kind == "refinement" and len(study.rows) != 1:
        raise StudyFileError(
            f"{path} has the rows {[row.name for row in study.rows]}, and this study is about one; "
            f"choose it, for example --rows {study.rows[0].name!r}"
        )
    if shapes := study.settings.get("shapes"):
        root = Path(next(iter(study.cfgs.values())).data_root)
        generate(root, Config.fromfile(path.parent / shapes), NUM_IMAGES)
    _find_files(study, path, with_weights=kind != "detectors")
    screen = sys.stdout

    def say(line: str) -> None:
        print(line, file=screen, flush=True)

    cfgs = {row.name: study.cfgs[row.name] for row in study.rows}
    if kind == "refinement":
        (cfg,) = cfgs.values()
        report = run_study(cfg, out, chosen, say)
        return report, refinement_page(report)
    if kind == "objectives":
        report = compare_recipes(cfgs, out, chosen, say)
        return report, objectives_page(report)
    report = compare_detectors(study.cfgs, study.rows, out, chosen, say, jobs)
    return report, detectors_page(report)


def _find_files(study: Study, path: Path, with_weights: bool) -> None:
    """Check that data and weights exist, before anything is trained.

    Raises:
        StudyFileError: A folder or file does not exist.
    """
    for name, cfg in study.cfgs.items():
        root, weights = cfg.get("data_root"), cfg.get("load_from")
        if root and not Path(root).is_dir():
            raise StudyFileError(
                f"{path}, row {name!r}: there is no folder {root} with its data; README.md beside "
                "the config describes how to make it. For data elsewhere: --data-root DIR"
            )
        if with_weights and weights and "://" not in weights and not Path(weights).is_file():
            raise StudyFileError(
                f"{path}, row {name!r}: there is no file {weights} with the weights of its "
                "detector; train it, or give --cfg-options load_from=FILE"
            )


def _settings(study: Study, rivals: Sequence[str], given: Mapping[str, object]) -> StudySettings:
    """Settings: those of the command line, else of the study file, else the defaults."""
    values = {**study.settings, **given}
    values.pop("shapes", None)
    values["boxes_per_iteration"] = values.pop("boxes", StudySettings.boxes_per_iteration)
    for name in ("seeds", "methods"):
        values[name] = tuple(values.get(name, getattr(StudySettings, name)))
    return StudySettings(rivals=tuple(rivals), **values)
