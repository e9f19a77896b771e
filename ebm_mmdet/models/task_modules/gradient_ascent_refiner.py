"""Prediction by gradient ascent on a log-density: configured once, called per batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import TASK_UTILS
from torch import Tensor

from ...energy import (
    LogDensityFn,
    RefinementResult,
    RefinementTrace,
    best_of_groups,
    distinct_modes,
    gradient_ascent,
    highest_end,
    mass_around,
    regression_steps,
    with_gaussian_prior,
)
from ...energy.log_density import evaluate_finite
from ...energy.priors import gaussian_offsets
from ...energy.regression_steps import check_regression_steps
from ...energy.steps import Acceleration, check_climb
from .detection_prior import DetectionPrior, are_positive, fitting
from .importance_refiner import antithetic_normal

__all__ = ["GradientAscentRefiner"]


@TASK_UTILS.register_module()
class GradientAscentRefiner:
    """Gradient ascent on f, or on a posterior ``temperature f + log N(y; ŷ + bias, (scale std)²)``.

    With ``std='per_box'`` the prior is ``N(ŷ + bias, scale² Σ)`` with the covariance Σ that the
    detector predicts for each box, correlations included.

    With ``regression_steps=R`` and a head with a ``regression``, the climb begins where R steps of
    that regression lead (:func:`~ebm_mmdet.energy.regression_steps`). f, or the posterior, approves
    each of them, so it never falls. One such step without a climb (``num_steps=0``) costs two
    evaluations of f and no gradient.

    With ``num_starts=S`` it climbs from S points and keeps the end with the greatest log-density
    (of the posterior, if there is a prior). The first start is the detection. For the others,
    ``num_samples`` points y_m = ŷ + bias + start_std ε_m are divided into S - 1 equal groups, and
    the best point of each group is a start. ε are fixed by ``seed`` and the same for every box, as
    in :class:`.ImportanceMeanRefiner`. Use it where annotations are ambiguous, and f has several
    hills; ``start_std`` then has to cover the distance between them.

    With ``num_modes=K`` the result also has ``modes``, the K highest ends that are on hills of
    their own (:func:`~ebm_mmdet.energy.distinct_modes`), and ``mode_mass``, the share of the
    density that belongs to each (:func:`~ebm_mmdet.energy.mass_around`, with ``num_samples`` points
    of each of three widths around each mode):

        mass_k = Σ_m w_m 1[mode k is the nearest to y_m],    w = softmax_m(f(y_m) - log q(y_m))

    Args:
        step_size: step lengths of the encoded coordinates, a number or (D,). Required for a climb
            without a prior; with one, the default is derived from it and needs no tuning.
        num_steps: number of steps T of Algorithm 1.
        decay: factor on a box's step lengths after a rejected step.
        acceleration: None; or ``'bb'``, which goes to the top in few steps, as is wanted with a
            prior. See :func:`~ebm_mmdet.energy.gradient_ascent`.
        tolerance: a box stops where its next step promises a smaller gain of f (in nats). 0: never.
        prior: None (the published rule), or ``dict(std=..., bias=0.0, scale=1.0,
            temperature=1.0)``; see :class:`.DetectionPrior`.
        return_trace: keep every step in the result, for plots.
        num_starts: S, points from which each box climbs; 1 is the detection alone.
        start_std: spread of the other starts in encoded coordinates, a number or (D,). Required for
            several starts without a prior; with one, the default is that of the prior.
        num_modes: K, at most S; 0 to return none.
        num_samples: points among which the starts are chosen, even and at least 2 D.
        seed: of ε.
        regression_steps: R, first steps by the head's regression; 0 for none.
        regression_length: share of the regression's offset that a step tries first; ``decay``
            shortens it where f would fall.
        cuda_graph: run the climb on a GPU as one CUDA graph, where it can be
            (:mod:`ebm_mmdet.models.fused_climb`), in 2D with fused kernels where they compute f;
            elsewhere the loop is used, and the log says why, once. **Experimental: it has not run
            on a GPU yet.** What is launched is tested on a CPU, the recording is not.
        precision: of the products with the trunk's weights in that graph: ``'fp32'``, ``'tf32'``,
            or, with the fused kernels, ``'bf16x2'`` (weights and maps in bfloat16, activations as
            a sum of two).

    Raises:
        ValueError: neither a step size nor a prior is given, ``prior`` has unknown keys, or another
            argument is outside its range, or has no effect.

    Source: Gustafsson et al., ECCV 2020 (1909.12297), Algorithm 1.
    """

    # Of the class: refiners that were pickled before have no such attributes.
    acceleration: Acceleration | None = None
    tolerance = 0.0
    num_starts, num_modes = 1, 0
    regression_steps, regression_length = 0, 1.0
    cuda_graph, precision = False, "fp32"

    def __init__(
        self,
        step_size: float | Sequence[float] | None = None,
        num_steps: int = 10,
        decay: float = 0.5,
        prior: dict | None = None,
        return_trace: bool = False,
        acceleration: Acceleration | None = None,
        tolerance: float = 0.0,
        num_starts: int = 1,
        start_std: float | Sequence[float] | None = None,
        num_modes: int = 0,
        num_samples: int = 64,
        seed: int = 0,
        regression_steps: int = 0,
        regression_length: float = 1.0,
        cuda_graph: bool = False,
        precision: str = "fp32",
    ) -> None:
        if step_size is None and prior is None and (num_steps or not regression_steps):
            raise ValueError(
                "GradientAscentRefiner needs step_size, such as (8e-4, 8e-4, 3.2e-3, 3.2e-3) of "
                "the papers, or a prior from which it follows"
            )
        check_climb(num_steps, decay, acceleration, tolerance)
        check_regression_steps(regression_steps, regression_length)
        self.regression_steps, self.regression_length = regression_steps, regression_length
        self.step_size, self.num_steps, self.decay = step_size, num_steps, decay
        self.prior = None if prior is None else DetectionPrior.from_config(prior)
        self.return_trace = return_trace
        self.acceleration, self.tolerance = acceleration, tolerance
        if num_starts < 1 or not 0 <= num_modes <= num_starts:
            raise ValueError(
                f"num_starts={num_starts} and num_modes={num_modes}: need at least one start, and "
                "no more modes than starts"
            )
        if start_std is not None and not are_positive(start_std):
            raise ValueError(
                f"start_std={start_std!r}; expected a positive number, or one per coordinate"
            )
        if num_starts > 1:
            if start_std is None and prior is None:
                raise ValueError(
                    f"num_starts={num_starts} needs start_std, how far from the detection other "
                    "hills may be in encoded coordinates, such as 0.3; or a prior"
                )
            if num_samples % 2 or num_samples < num_starts - 1:
                raise ValueError(
                    f"num_samples={num_samples} must be even and at least num_starts - 1 = "
                    f"{num_starts - 1}"
                )
        elif num_modes:
            raise ValueError(f"num_modes={num_modes} needs several starts; set num_starts")
        self.num_starts, self.start_std, self.num_modes = num_starts, start_std, num_modes
        self.num_samples, self.seed = num_samples, seed
        if precision != "fp32":
            from ..fused_climb import check_precision  # late, as in `climb`

            check_precision(precision)
            if not cuda_graph:
                raise ValueError(f"precision={precision!r} has an effect only with cuda_graph=True")
        self.cuda_graph, self.precision = cuda_graph, precision

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
        step_size, climbed, centre, std = self.step_size, log_density_fn, y0, None
        if self.prior is not None:
            # The prior checks what it gives. Each further check would wait for a GPU.
            if step_size is None:
                std, step_size = self.prior.std_and_step_size(y0, covariance)
            else:
                std = self.prior.scaled_std(y0, covariance)
            centre = self.prior.mean(y0)
            climbed = with_gaussian_prior(
                log_density_fn, centre, std, temperature=self.prior.temperature, validate=False
            )
        first, start = None, y0
        if self.regression_steps:
            first = regression_steps(
                climbed,
                y0,
                self.regression_steps,
                self.regression_length,
                self.decay,
                self.return_trace,
            )
            start = first.y
        if self.num_starts > 1:
            result = self._highest(climbed, start, centre, std, step_size)
        elif first is None or self.num_steps:
            result = self.climb(climbed, start, step_size)
        else:
            result, first = first, None
        if first is not None:
            result = _joined(first, result, y0, one_path=self.num_starts == 1)
        if self.prior is not None:
            f = evaluate_finite(log_density_fn, result.y.unsqueeze(1)).squeeze(1)
            result = result._replace(log_density=f)
        return result

    def climb(
        self,
        log_density_fn: LogDensityFn,
        y0: Tensor,
        step_size: float | Sequence[float] | Tensor | None,
    ) -> RefinementResult:
        """:func:`~ebm_mmdet.energy.gradient_ascent` with the settings of this refiner."""
        validate = not isinstance(step_size, Tensor)  # the prior has checked those it gives
        if self.cuda_graph:
            from ..fused_climb import fused_climb  # it needs heads, which need this package

            result = fused_climb(
                log_density_fn,
                y0,
                0.0 if step_size is None else step_size,
                self.num_steps,
                self.decay,
                self.acceleration,
                self.tolerance,
                self.return_trace,
                self.precision,
                validate=validate,
            )
            if result is not None:
                return result
        return gradient_ascent(
            log_density_fn,
            y0,
            0.0 if step_size is None else step_size,  # no climb has none
            self.num_steps,
            self.decay,
            return_trace=self.return_trace,
            acceleration=self.acceleration,
            tolerance=self.tolerance,
            validate=validate,
        )

    def _highest(
        self,
        climbed: LogDensityFn,
        y0: Tensor,
        centre: Tensor,
        std: Tensor | None,
        step_size: float | Sequence[float] | Tensor | None,
    ) -> RefinementResult:
        """The highest end of climbs from ``num_starts`` points, and the modes, if asked for."""
        if self.start_std is not None:
            std = fitting("start_std", self.start_std, y0)
        noise = antithetic_normal(self.num_samples, y0.shape[1], self.seed)
        noise = noise.to(y0, non_blocking=True)
        samples = centre.unsqueeze(1) + gaussian_offsets(noise, std)
        f = evaluate_finite(climbed, samples)
        starts = torch.cat(
            [y0.unsqueeze(1), best_of_groups(samples, f, self.num_starts - 1)], dim=1
        )
        ends = self.climb(climbed, starts, step_size)
        result = highest_end(ends, y0)
        if not self.num_modes:
            return result
        modes = distinct_modes(climbed, ends.y, ends.log_density, self.num_modes)
        mass = mass_around(climbed, modes, std, noise)
        return result._replace(modes=modes, mode_mass=mass)


def _joined(
    first: RefinementResult, then: RefinementResult, y0: Tensor, one_path: bool
) -> RefinementResult:
    """The result of a climb from where first steps have led, with the moves and states of both.

    Where the climb has chosen among several starts, it need not go on where they ended, and the
    states are those of the climb alone.
    """
    if not one_path:
        moved = (then.y != y0).any(1).long()
        return then._replace(accepted=then.accepted.clamp(min=moved))
    accepted = first.accepted + then.accepted
    trace = None
    if first.trace is not None and then.trace is not None:
        trace = RefinementTrace(
            torch.cat([first.trace.y, then.trace.y[1:]]),
            torch.cat([first.trace.log_density, then.trace.log_density[1:]]),
            torch.cat([first.trace.accepted, then.trace.accepted]),
        )
    return then._replace(accepted=accepted, trace=trace)
