"""Prediction by gradient ascent on a log-density: configured once, called per batch."""

from __future__ import annotations

from collections.abc import Sequence

from mmdet.registry import TASK_UTILS
from torch import Tensor

from ...energy import (
    LogDensityFn,
    RefinementResult,
    gradient_ascent,
    prior_step_size,
    with_gaussian_prior,
)
from ...energy.log_density import evaluate_finite
from ...energy.steps import Acceleration, check_climb
from .detection_prior import DetectionPrior

__all__ = ["GradientAscentRefiner"]


@TASK_UTILS.register_module()
class GradientAscentRefiner:
    """Gradient ascent on f, or on a posterior ``temperature f + log N(y; ŷ + bias, (scale std)²)``.

    With ``std='per_box'`` the prior is ``N(ŷ + bias, scale² Σ)`` with the covariance Σ that the
    detector predicts for each box, correlations included.

    Args:
        step_size: step lengths of the encoded coordinates, a number or (D,). Required without a
            prior; with one, the default is derived from it and needs no tuning.
        num_steps: number of steps T of Algorithm 1.
        decay: factor on a box's step lengths after a rejected step.
        acceleration: None; ``'leap'``, which goes where T plain steps lead, in ``num_leaps``
            evaluated ones; or ``'bb'``, which goes to the top in few, as is wanted with a prior.
            See :func:`~ebm_mmdet.energy.gradient_ascent`.
        num_leaps: evaluated steps of ``'leap'``.
        tolerance: a box stops where its next step promises a smaller gain of f (in nats). 0: never.
        prior: None (the published rule), or ``dict(std=..., bias=0.0, scale=1.0,
            temperature=1.0)``; see :class:`.DetectionPrior`.
        return_trace: keep every step in the result, for plots.

    Raises:
        ValueError: neither a step size nor a prior is given, ``prior`` has unknown keys, or another
            argument is outside its range.

    Source: Gustafsson et al., ECCV 2020 (1909.12297), Algorithm 1.
    """

    # Of the class: refiners that were pickled before have no such attributes.
    acceleration: Acceleration | None = None
    num_leaps = 3
    tolerance = 0.0

    def __init__(
        self,
        step_size: float | Sequence[float] | None = None,
        num_steps: int = 10,
        decay: float = 0.5,
        prior: dict | None = None,
        return_trace: bool = False,
        acceleration: Acceleration | None = None,
        num_leaps: int = 3,
        tolerance: float = 0.0,
    ) -> None:
        if step_size is None and prior is None:
            raise ValueError(
                "GradientAscentRefiner needs step_size, such as (8e-4, 8e-4, 3.2e-3, 3.2e-3) of "
                "the papers, or a prior from which it follows"
            )
        check_climb(num_steps, decay, acceleration, num_leaps, tolerance)
        self.step_size, self.num_steps, self.decay = step_size, num_steps, decay
        self.prior = None if prior is None else DetectionPrior.from_config(prior)
        self.return_trace = return_trace
        self.acceleration, self.num_leaps, self.tolerance = acceleration, num_leaps, tolerance

    def __call__(
        self,
        log_density_fn: LogDensityFn,
        y0: Tensor,
        *,
        covariance: Tensor | None = None,
        num_per_image: Sequence[int] | None = None,
    ) -> RefinementResult:
        """Maximise by gradient ascent from ``y0``.

        Args:
            log_density_fn: f of the N boxes.
            y0: (N, D) encoded detections ŷ, the starting points.
            covariance: (N, D, D) of the detector, encoded; read with ``prior.std='per_box'``.
            num_per_image: not read, because boxes do not influence each other.

        Returns:
            See :class:`~ebm_mmdet.energy.RefinementResult`; ``log_density`` is that of f alone,
            without the prior.
        """
        step_size, climbed = self.step_size, log_density_fn
        if self.prior is not None:
            std = self.prior.scaled_std(y0, covariance)
            climbed = with_gaussian_prior(
                log_density_fn, self.prior.mean(y0), std, temperature=self.prior.temperature
            )
            if step_size is None:
                step_size = prior_step_size(std)
        result = self.climb(climbed, y0, step_size)
        if self.prior is not None:
            f = evaluate_finite(log_density_fn, result.y.unsqueeze(1)).squeeze(1)
            result = result._replace(log_density=f)
        return result

    def climb(
        self,
        log_density_fn: LogDensityFn,
        y0: Tensor,
        step_size: float | Sequence[float] | Tensor,
    ) -> RefinementResult:
        """:func:`~ebm_mmdet.energy.gradient_ascent` with the settings of this refiner."""
        return gradient_ascent(
            log_density_fn,
            y0,
            step_size,
            self.num_steps,
            self.decay,
            return_trace=self.return_trace,
            acceleration=self.acceleration,
            num_leaps=self.num_leaps,
            tolerance=self.tolerance,
        )
