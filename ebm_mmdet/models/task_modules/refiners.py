"""How a prediction is made from a log-density: configured once, called per batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor

from ...energy import (
    LogDensityFn,
    RefinementResult,
    gradient_ascent,
    prior_step_size,
    with_gaussian_prior,
)

__all__ = ["GradientAscentRefiner"]


@TASK_UTILS.register_module()
class GradientAscentRefiner:
    """Gradient ascent on f, or on the posterior ``temperature f + log N(y; ŷ, (scale std)^2)``.

    Args:
        step_size: step lengths of the encoded coordinates, a number or (D,). Required without a
            prior; with one, the default is derived from it and needs no tuning.
        num_steps: T of Algorithm 1.
        decay: factor on a box's step lengths after a rejected step.
        prior: None (the published rule), or ``dict(std=..., scale=1.0, temperature=1.0)``:

            - ``std``: residual standard deviations of the detector in encoded coordinates, (D,),
              as ``tools/analysis_tools/fit_residual_prior.py`` prints them; or ``'per_box'``,
              read from ``pred_instances.box_std`` (n, D);
            - ``scale``, ``temperature``: s and τ; the mode depends on ``τ s²`` only.
        return_trace: keep every step in the result, for plots.

    Raises:
        ValueError: neither a step size nor a prior, or unknown keys in ``prior``.

    Source: Gustafsson et al., ECCV 2020 (1909.12297), Algorithm 1.
    """

    def __init__(
        self,
        step_size: float | Sequence[float] | None = None,
        num_steps: int = 10,
        decay: float = 0.5,
        prior: dict | None = None,
        return_trace: bool = False,
    ) -> None:
        if step_size is None and prior is None:
            raise ValueError(
                "GradientAscentRefiner needs step_size, such as (8e-4, 8e-4, 3.2e-3, 3.2e-3) of "
                "the papers, or a prior from which it follows"
            )
        if prior is not None:
            check_prior(prior)
        self.step_size, self.num_steps, self.decay = step_size, num_steps, decay
        self.prior, self.return_trace = prior, return_trace

    def __call__(
        self,
        log_density_fn: LogDensityFn,
        y0: Tensor,
        found: Sequence[InstanceData] = (),
    ) -> RefinementResult:
        """Climb from ``y0``.

        Args:
            log_density_fn: f of the N boxes.
            y0: (N, D) encoded starts; also the centres of the prior.
            found: detections of each image, N in total; read with ``prior.std='per_box'``.

        Returns:
            See :class:`~ebm_mmdet.energy.RefinementResult`; ``log_density`` is that of f alone,
            without the prior.
        """
        step_size, climbed = self.step_size, log_density_fn
        if self.prior is not None:
            std = prior_std(self.prior, y0, found)
            scale = self.prior.get("scale", 1.0)
            temperature = self.prior.get("temperature", 1.0)
            climbed = with_gaussian_prior(log_density_fn, y0, std, scale, temperature)
            if step_size is None:
                step_size = prior_step_size(std, scale)
        result = gradient_ascent(
            climbed, y0, step_size, self.num_steps, self.decay, return_trace=self.return_trace
        )
        if self.prior is not None:
            with torch.no_grad():
                f = log_density_fn(result.y.unsqueeze(1)).squeeze(1)
            result = result._replace(log_density=f)
        return result


def check_prior(prior: dict) -> None:
    """Raise ``ValueError`` unless ``prior`` is ``dict(std=..., scale=1.0, temperature=1.0)``."""
    unknown = set(prior) - {"std", "scale", "temperature"}
    if unknown or "std" not in prior:
        raise ValueError(
            f"prior={dict(prior)!r}; expected dict(std=..., scale=1.0, temperature=1.0)"
        )


def prior_std(prior: dict, y0: Tensor, found: Sequence[InstanceData]) -> Tensor:
    """Standard deviations (D,) of a prior, or (N, D) of ``'per_box'``, like ``y0`` (N, D).

    Raises:
        ValueError: ``'per_box'``, and the detections have no ``box_std``.
    """
    if prior["std"] != "per_box":
        return y0.new_tensor(prior["std"])
    # A detector without any proposal returns empty instances that lack most fields.
    found = [instances for instances in found if len(instances)]
    if not found:
        return torch.ones_like(y0)
    if any("box_std" not in instances for instances in found):
        raise ValueError(
            "prior.std='per_box' needs pred_instances.box_std (n, 4), which this detector does "
            "not predict; give fixed standard deviations instead"
        )
    return torch.cat([instances.box_std for instances in found]).to(y0)
