"""A metric of image regression: errors of the point prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmdet.registry import METRICS

from .scores import wrap
from .target_metric import TargetMetric, as_numpy, finite_field

__all__ = ["RegressionMetric"]


@METRICS.register_module()
class RegressionMetric(TargetMetric):
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
        self.groups = tuple(map(str, groups))  # as those of data samples are compared

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the labels and predictions of a batch, one entry per image."""
        for sample in data_samples:
            if sample.get("gt_target") is None:
                # mmengine collects the entries of several processes in turns, and cuts them to the
                # size of the set, so that every image has to have one.
                self.results.append({})
                continue
            found = dict(
                target=finite_field(sample, "gt_target"),
                predicted=finite_field(sample, "pred_target"),
            )
            if sample.get("oracle_means") is not None:
                miss = wrap(found["predicted"] - as_numpy(sample["oracle_means"]), self._periods())
                near = np.abs(miss) <= self.branch_radius * as_numpy(sample["oracle_stds"])
                found["off_branch"] = not near.all(-1).any()
            found["group"] = sample.get("group")
            self.results.append(found)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Evaluate all images; see the class for the values.

        Args:
            results: one dict per image, as :meth:`process` stores them; empty without a label.
        """
        results = [result for result in results if result]
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
