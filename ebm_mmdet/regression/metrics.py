"""Metrics of image regression: errors of the point prediction, and quality of the density."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from torch import Tensor

from .scores import (
    crps,
    energy_score,
    interval_hits,
    pit,
    quantile_calibration_error,
    wrap,
)

__all__ = ["ProbabilisticRegressionMetric", "RegressionMetric"]


class _TargetMetric(BaseMetric):
    """What both metrics share: finite arrays out of data samples, and the targets' periods."""

    def _periods(self) -> Sequence[float | None] | None:
        return self._target_meta().get("periods")

    def _target_meta(self) -> dict:
        return (self.dataset_meta or {}).get("target", {})

    def _no_label(self) -> None:
        MMLogger.get_current_instance().warning(
            f"{type(self).__name__}: no image of the data set has a label, so nothing is measured."
        )


@METRICS.register_module()
class RegressionMetric(_TargetMetric):
    """Errors of ``pred_target`` (D,) against ``gt_target`` (D,), in raw units.

    Images without a label are left out. Periodic coordinates (``periods`` of the data set's
    ``target``) have wrapped errors. Returns, under the prefix ``regression``:

    - ``mae``, ``rmse``, ``r2``: of each coordinate, averaged over the D coordinates; R² is 1 minus
      the squared error over that of the best constant, NaN if all labels are equal;
    - ``mae_NAME``: for each coordinate, if there are several;
    - ``cs_K``: share of images with no error above K, for each of ``cs``;
    - ``mae_LO_HI``: mean absolute error where LO <= |y| < HI, for each bin; |y| is the largest
      absolute coordinate. NaN for a bin without an image;
    - ``off_branch``: share of images whose prediction is farther than ``branch_radius`` standard
      deviations of the label noise from every true answer, in at least one coordinate. Only where
      the true density is known as a mixture of Gaussians, from ``oracle_means`` (K, D) and
      ``oracle_stds`` (K, D);
    - ``mae_GROUP`` and ``off_branch_GROUP``: the same over the images whose ``group`` is GROUP, for
      each of ``groups``;
    - ``labelled``: number of images that these values are computed from. If it is 0, the others
      are missing, with a warning.

    Args:
        cs: thresholds K in raw units, such as (5,) for ages.
        bins: edges of the bins of |y|, ascending; the last bin is open above.
        branch_radius: radius of ``off_branch`` in standard deviations.
        groups: groups of images with values of their own.
        collect_device: mmengine's.
        prefix: mmengine's.

    Raises:
        ValueError: an argument is not as described; or a prediction is missing or not finite,
            raised at the first such image.
    """

    default_prefix = "regression"

    def __init__(
        self,
        cs: Sequence[float] = (),
        bins: Sequence[float] = (),
        branch_radius: float = 3.0,
        groups: Sequence[str] = (),
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if list(bins) != sorted(set(bins)) or any(edge < 0 for edge in bins):
            raise ValueError(f"bins={bins}: expected ascending edges of |y|, none negative")
        if any(not threshold >= 0 for threshold in cs):
            raise ValueError(f"cs={cs}: expected thresholds that are not negative")
        self.cs, self.bins, self.branch_radius = tuple(cs), tuple(bins), branch_radius
        self.groups = tuple(groups)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the labels and predictions of a batch."""
        for sample in data_samples:
            if sample.get("gt_target") is None:
                continue
            found = dict(
                target=_array(sample, "gt_target"), predicted=_array(sample, "pred_target")
            )
            if sample.get("oracle_means") is not None:
                miss = wrap(found["predicted"] - _numpy(sample["oracle_means"]), self._periods())
                near = np.abs(miss) <= self.branch_radius * _numpy(sample["oracle_stds"])
                found["off_branch"] = not near.all(-1).any()
            found["group"] = sample.get("group")
            self.results.append(found)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Evaluate all images; see the class for the values.

        Args:
            results: one dict per labelled image, as :meth:`process` stores them.
        """
        if not results:
            self._no_label()
            return {"labelled": 0}
        target, predicted = (np.stack([r[key] for r in results]) for key in ("target", "predicted"))
        periods = self._periods()
        error = wrap(predicted - target, periods)
        absolute, squared = np.abs(error), error**2
        constant = wrap(target - _centre(target, periods), periods)
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = np.where(constant.any(0), 1 - squared.sum(0) / (constant**2).sum(0), np.nan)
        values = {
            "mae": absolute.mean(),
            "rmse": np.sqrt(squared.mean(0)).mean(),
            "r2": r2.mean(),
        }
        if target.shape[1] > 1:
            names = self._target_meta().get("names", range(target.shape[1]))
            values |= {f"mae_{n}": v for n, v in zip(names, absolute.mean(0))}
        largest = absolute.max(1)
        values |= {f"cs_{k:g}": (largest <= k).mean() for k in self.cs}
        size = np.abs(target).max(1)
        for low, high in zip(self.bins, (*self.bins[1:], np.inf)):
            inside = (size >= low) & (size < high)
            values[f"mae_{low:g}_{high:g}"] = absolute[inside].mean() if inside.any() else np.nan
        group = np.array([str(r["group"]) for r in results])
        off = np.array([r.get("off_branch", np.nan) for r in results], float)
        for suffix, chosen in _groups(self.groups, group):
            if suffix:
                values[f"mae{suffix}"] = _mean(absolute[chosen].mean(1))
            if not np.isnan(off).all():
                values[f"off_branch{suffix}"] = _mean(off[chosen])
        return {**{key: float(value) for key, value in values.items()}, "labelled": len(results)}


@METRICS.register_module()
class ProbabilisticRegressionMetric(_TargetMetric):
    """Quality of a predicted density of y, in raw units.

    Images without a label are left out of everything but the effective sample size. A value is
    missing from the result if the model does not predict what it needs: a direct regressor has no
    density. Returns, under the prefix ``density``:

    - ``nll``: mean of -log p(y | x) in nats, from ``gt_log_prob``;
    - ``nll_oracle``: the same of the true density, from ``oracle_log_prob``, over images that have
      both; ``nll_gap``: their difference, which is an estimate of the KL divergence;
    - ``nll_mass``: mean of -log P(y - ½ < Y < y + ½ | x) for integer labels, from ``gt_log_mass``;
    - ``crps`` (D = 1) or ``energy_score`` (D > 1, or a periodic coordinate), from ``pred_samples``
      (S, D);
    - ``coverage_P`` and ``width_P``: share of labels inside the central interval of P percent, and
      its mean width, both averaged over coordinates, from ``pred_interval`` (L, 2, D) at the
      levels ``interval_levels``;
    - ``qce``: quantile calibration error from ``pred_samples``, averaged over coordinates;
    - ``nll_GROUP`` and ``nll_oracle_GROUP``: the same over the images whose ``group`` is GROUP, for
      each of ``groups``;
    - ``ess`` and ``ess_low``: mean effective sample size, and share of images below ``min_ess``;
    - ``labelled``: number of labelled images.

    Args:
        min_ess: smallest effective sample size at which the estimates of an image mean anything.
        energy_samples: of more samples than this, evenly spaced ones give the energy score.
        groups: groups of images with values of their own.
        collect_device: mmengine's.
        prefix: mmengine's.

    Raises:
        ValueError: a value is not finite, raised at the first such image. A log-probability of
            -inf is allowed, as the score of a label that the model excludes.

    Source: Gneiting and Raftery, JASA 2007; Kuleshov et al., ICML 2018.
    """

    default_prefix = "density"

    def __init__(
        self,
        min_ess: float = 30.0,
        energy_samples: int = 256,
        groups: Sequence[str] = (),
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if energy_samples < 2:
            raise ValueError(f"energy_samples={energy_samples}: expected at least 2")
        self.min_ess, self.energy_samples = min_ess, energy_samples
        self.groups = tuple(groups)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Score each image, so that samples need not be kept."""
        periods = self._periods()
        for sample in data_samples:
            found = {}
            if sample.get("ess") is not None:
                found["ess"] = float(_array(sample, "ess"))
            if sample.get("gt_target") is not None:
                found["labelled"], group = 1, sample.get("group")
                found |= self._scores(sample, _array(sample, "gt_target")[None], periods)
                if group in self.groups:
                    found |= {
                        f"{key}_{group}": found[key]
                        for key in ("nll", "nll_oracle")
                        if key in found
                    }
            self.results.append(found)

    def _scores(self, sample: dict, target: np.ndarray, periods) -> dict:
        found = {}
        for key, field in (("nll", "gt_log_prob"), ("nll_mass", "gt_log_mass")):
            if sample.get(field) is not None:
                found[key] = -float(_array(sample, field, "a number or -inf"))
        if "nll" in found and sample.get("oracle_log_prob") is not None:
            found["nll_oracle"] = -float(sample["oracle_log_prob"])
            found["nll_gap"] = found["nll"] - found["nll_oracle"]
        if sample.get("pred_samples") is not None:
            drawn = _array(sample, "pred_samples")[None]
            if target.shape[1] > 1 or (periods and any(periods)):
                found["energy_score"] = energy_score(drawn, target, periods, self.energy_samples)[0]
            else:
                found["crps"] = crps(drawn[..., 0], target[:, 0])[0]
            centre = _array(sample, "pred_target")[None]
            found["pit"] = pit(drawn, target, periods, centre)[0]
        if sample.get("pred_interval") is not None:
            interval = _array(sample, "pred_interval")[None]
            inside, width = interval_hits(interval, target, periods)
            for i, level in enumerate(sample["interval_levels"]):
                name = f"{100 * level:g}"
                found[f"coverage_{name}"] = inside[0, i].mean()
                found[f"width_{name}"] = width[0, i].mean()
        return found

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Average over all images; see the class for the values.

        Args:
            results: one dict per image, as :meth:`process` stores them.
        """
        columns: dict[str, list] = {}
        for result in results:
            for key, value in result.items():
                columns.setdefault(key, []).append(value)
        labelled = len(columns.pop("labelled", ()))
        if not labelled:
            self._no_label()
        transforms = columns.pop("pit", [])
        values = {key: np.mean(column) for key, column in columns.items()}
        if transforms:
            values["qce"] = quantile_calibration_error(np.stack(transforms)).mean()
        if "ess" in columns:
            values["ess_low"] = np.mean(np.array(columns["ess"]) < self.min_ess)
        return {**{key: float(value) for key, value in values.items()}, "labelled": labelled}


def _groups(wanted: Sequence[str], group: np.ndarray):
    """Suffix of the metric's name, and which images count; first all of them."""
    yield "", np.full(len(group), True)
    for name in wanted:
        yield f"_{name}", group == name


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN for nothing."""
    values = values[~np.isnan(values)]
    return values.mean() if len(values) else np.nan


def _centre(target: np.ndarray, periods: Sequence[float | None] | None) -> np.ndarray:
    """Mean (D,) of labels (n, D); the circular mean of a periodic coordinate."""
    centre = target.mean(0)
    for d, period in enumerate(periods or ()):
        if period:
            turn = 2 * np.pi / period
            angles = target[:, d] * turn
            centre[d] = np.arctan2(np.sin(angles).mean(), np.cos(angles).mean()) / turn
    return centre


def _numpy(value) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, float)


def _array(sample: dict, key: str, expected: str = "finite values") -> np.ndarray:
    """A field of a data sample as float64; it must be there and finite."""
    name = sample.get("img_path") or f"number {sample.get('sample_idx')}"
    if sample.get(key) is None:
        raise ValueError(f"image {name} has no {key}; the model has to predict it")
    value = _numpy(sample[key])
    allowed = np.isfinite(value) if expected == "finite values" else value < np.inf
    if not allowed.all():
        raise ValueError(
            f"{key} of image {name} is {value.ravel()[:8]}, expected {expected}. If it is a "
            "prediction, the training has diverged: lower the learning rate, or start again from "
            "an earlier checkpoint"
        )
    return value
