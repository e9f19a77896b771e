"""The tables of the studies in Markdown, each with a description for its reader."""

from __future__ import annotations

from collections.abc import Sequence

from ebm_mmdet.evaluation.average_precision import METRICS
from ebm_mmdet.files import markdown_table

from .study import metric_cell

__all__ = ["detectors_page", "objectives_page", "refinement_page"]

_PRECISION = [metric for metric in METRICS if metric.startswith("AP")]


def _text(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _changes(settings: dict, paired: str = "") -> str:
    return (
        "Values are means over seeds, in percent; in brackets the change against the first row ± "
        f"its bootstrap error over images ({settings['resamples']} resamples{paired})."
    )


def _heads(report: dict) -> str:
    settings = report["settings"]
    return (
        f"Head seeds {_list(settings['seeds'])}; {settings['rounds']} augmented versions per "
        f"training image, {settings['boxes_per_iteration']} boxes per iteration; "
        f"{report['threads']} CPU threads."
    )


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def refinement_page(report: dict) -> str:
    """The table of `run_study`."""
    std = ", ".join(f"{value:.4f}" for value in report["residual_std"])
    described = (
        f"{_heads(report)} Detection takes {report['detection_ms_per_image']:.0f} ms per image "
        f"(median), to which the last column adds. {_changes(report['settings'])} Residuals on "
        f"the training images, for the prior: std ({std})."
    )
    over_l1 = any("over_l1_AP" in row for row in report["rows"])
    if over_l1:
        described += (
            " Over L1: the change of AP90 against the best L1 row in it ± its bootstrap error, "
            "paired."
        )
    header = ["", "heads", *METRICS, *["over L1, AP90"] * over_l1]
    header += ["training, s", "refining, ms per image"]
    lines = []
    for row in report["rows"]:
        values = [metric_cell(row, metric) for metric in METRICS]
        if over_l1:
            values.append(_over_l1(row, "AP90"))
        times = [_text(row["training_s"], ".0f"), f"{row['ms_per_image']:.0f}"]
        lines.append([row["method"], str(row["runs"]), *values, *times])
    return f"{described}\n\n{markdown_table(header, lines)}"


def _over_l1(row: dict, metric: str) -> str:
    if f"over_l1_{metric}" not in row:
        return ""
    return f"{row[f'over_l1_{metric}']:+.2f} ± {row[f'over_l1_error_{metric}']:.2f}"


def objectives_page(report: dict) -> str:
    """The table of `compare_recipes`."""
    described = (
        f"{_heads(report)} {_changes(report['settings'])} Cost is training time relative to the "
        "first recipe."
    )
    header = ["rule", *_PRECISION, "loss, first and last tenth", "training, s", "cost"]
    lines = []
    for row in report["rows"]:
        cells = [metric_cell(row, metric) for metric in _PRECISION]
        losses = "" if row["cost"] is None else f"{row['first_loss']:.2f}, {row['last_loss']:.2f}"
        name = f"**{row['recipe']}**, {row['method']}" if row["recipe"] else row["method"]
        cost = [_text(row["training_s"], ".0f"), _text(row["cost"], ".2f")]
        lines.append([name, *cells, losses, *cost])
    return f"{described}\n\n{markdown_table(header, lines)}"


def detectors_page(report: dict) -> str:
    """The table of `compare_detectors`."""
    settings = report["settings"]
    described = (
        f"Seeds {_list(settings['seeds'])}, {report['images']} validation images, "
        f"{report['threads']} CPU threads. {_changes(settings, ', paired')} Times: the whole "
        "detector with batch size 1, rows in turns on each image. Training: detector and, where "
        f"there is one, energy head (on cached features of {settings['rounds']} versions of each "
        "image)."
    )
    uncertain = any(row["nll"] is not None for row in report["rows"])
    if uncertain:
        described += (
            " NLL (of encoded coordinates, in nats) and expected calibration error of the sides, "
            "over detections that match an object, for rows that predict an uncertainty."
        )
    spread = ["NLL", "ECE"] if uncertain else []
    header = ["", *METRICS, "ms per image", "parameters, M", *spread, "training, s"]
    lines = []
    for row in report["rows"]:
        cells = [metric_cell(row, metric) for metric in METRICS]
        cells += [f"{row['ms_per_image']:.0f}", f"{row['params'] / 1e6:.2f}"]
        if uncertain:
            cells += [_text(row["nll"], ".2f"), _text(row["ece"], ".3f")]
        lines.append([row["method"], *cells, _text(row["training_s"], ".0f")])
    text = f"{described}\n\n{markdown_table(header, lines)}"
    return f"{text}\n\n{auxiliary}" if (auxiliary := _auxiliary_table(report)) else text


def _auxiliary_table(report: dict) -> str:
    """The table of the rows that predict scene, depth or normals; empty if there is none."""
    rows = [row for row in report["rows"] if row.get("auxiliary")]
    names = list(dict.fromkeys(name for row in rows for name in row["auxiliary"]))
    if not rows:
        return ""
    lines = []
    for row in rows:
        cells = []
        for name in names:
            mean, spread = row["auxiliary"].get(name, (None, None))
            value = _text(mean, ".3f" if abs(mean or 0) < 10 else ".1f")
            cells.append(value if spread is None else f"{value} ± {spread:.2g}")
        lines.append([row["method"], *cells])
    described = (
        "Auxiliary tasks on the same images, mean ± standard deviation over seeds: accuracies and "
        "shares as fractions, depth's RMSE in metres, angles of normals in degrees."
    )
    return f"{described}\n\n{markdown_table(['', *names], lines)}"
