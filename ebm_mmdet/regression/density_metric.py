"""A metric of image regression: the quality of the predicted density."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmdet.registry import METRICS

from .scores import crps, energy_score, interval_hits, pit, quantile_calibration_error
from .target_metric import TargetMetric, finite_field

__all__ = ["ProbabilisticRegressionMetric"]


@METRICS.register_module()
class ProbabilisticRegressionMetric(TargetMetric):
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
        self.groups = tuple(map(str, groups))

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Score each image, so that samples need not be kept."""
        periods = self._periods()
        for sample in data_samples:
            found = {}
            if sample.get("ess") is not None:
                found["ess"] = float(finite_field(sample, "ess"))
            if sample.get("gt_target") is not None:
                found["labelled"], group = 1, str(sample.get("group"))
                found |= self._scores(sample, finite_field(sample, "gt_target")[None], periods)
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
                found[key] = -float(finite_field(sample, field, "a number or -inf"))
        if "nll" in found and sample.get("oracle_log_prob") is not None:
            found["nll_oracle"] = -float(sample["oracle_log_prob"])
            found["nll_gap"] = found["nll"] - found["nll_oracle"]
        if sample.get("pred_samples") is not None:
            drawn = finite_field(sample, "pred_samples")[None]
            if target.shape[1] > 1 or (periods and any(periods)):
                found["energy_score"] = energy_score(drawn, target, periods, self.energy_samples)[0]
            else:
                found["crps"] = crps(drawn[..., 0], target[:, 0])[0]
            centre = finite_field(sample, "pred_target")[None]
            found["pit"] = pit(drawn, target, periods, centre)[0]
        if sample.get("pred_interval") is not None:
            interval = finite_field(sample, "pred_interval")[None]
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
