"""Several modes of a log-density: where climbs start, which ends are distinct, and their masses.

A climb ends on the hill on which it starts. Where the data are ambiguous, such as objects that one
annotator boxes with a handle and another one without it, f has several hills, and the answer
depends on the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .contracts import LogDensityFn, RefinementResult
from .host_reads import constant
from .importance import importance_weights
from .log_density import evaluate_finite, is_finite
from .priors import gaussian_log_density

__all__ = [
    "best_of_groups",
    "distinct_modes",
    "highest_end",
    "mass_around",
    "mass_by_nearest",
]

WIDTHS = (1.0, 0.25, 0.0625)
"""Widths of the Gaussians around each mode, relative to the spread of the starts: hills are much
narrower than the space between them, and how narrow is not known."""
_LINE = (1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6)


def best_of_groups(points: Tensor, f: Tensor, num_groups: int) -> Tensor:
    """The point with the largest f in each of ``num_groups`` groups of consecutive points.

    Args:
        points: (N, M, D).
        f: (N, M) log-densities at the points.
        num_groups: G, at most M; sizes of groups differ by at most one.

    Returns:
        (N, G, D).
    """
    groups = zip(points.tensor_split(num_groups, 1), f.tensor_split(num_groups, 1))
    best = [
        some.gather(1, values.argmax(1)[:, None, None].expand(-1, 1, some.shape[2]))
        for some, values in groups
    ]
    return torch.cat(best, dim=1)


def highest_end(ends: RefinementResult, y0: Tensor) -> RefinementResult:
    """Of climbs from S starts of each target, the one that ended highest; the first of equals.

    Args:
        ends: result of :func:`.gradient_ascent` from (N, S, D), with or without a trace.
        y0: (N, D) first estimates.

    Returns:
        The result of that climb for each target. ``accepted`` is at least 1 where ``y`` is not
        ``y0``, because a start elsewhere is a move too.
    """
    chosen = ends.log_density.argsort(dim=1, descending=True, stable=True)[:, :1]

    def take(values: Tensor, dim: int) -> Tensor:
        """Entry ``chosen`` of the starts, which are dimension ``dim``, after that of targets."""
        index = chosen.view(*[1] * (dim - 1), len(chosen), 1, *[1] * (values.dim() - dim - 1))
        return values.take_along_dim(index, dim).squeeze(dim)

    y = take(ends.y, 1)
    trace = ends.trace
    if trace is not None:
        trace = type(trace)(*(take(values, 2) for values in trace))
    accepted = take(ends.accepted, 1).clamp(min=(y != y0).any(1).long())
    return RefinementResult(y, take(ends.log_density, 1), accepted, trace)


def distinct_modes(
    log_density_fn: LogDensityFn, y: Tensor, f: Tensor, num_modes: int, valley: float = 1.0
) -> Tensor:
    """The highest ends that are on hills of their own.

    Ends a and b are on different hills if f falls between them: if at one of five equally spaced
    points of the straight line, f is below min(f(a), f(b)) by more than ``valley``. From the
    highest end downwards, an end is kept if it is on another hill than all that are kept.

    Source of the criterion: Ursem, "Multinational evolutionary algorithms", CEC 1999 ("hill-valley
    function").

    Args:
        log_density_fn: f of N targets.
        y: (N, S, D) ends of climbs.
        f: (N, S) log-densities there; -inf for an end that is none. The highest end of a target is
            kept even so.
        num_modes: K, how many to keep at most.
        valley: depth in nats. 1: on the way the density falls to less than 1/e of the lower hill.

    Returns:
        (N, K, D) by descending f, filled up with NaN.
    """
    num, starts, dim = y.shape
    order = f.argsort(dim=1, descending=True, stable=True)
    f = f.gather(1, order)
    y = y.take_along_dim(order.unsqueeze(-1), 1)
    pairs = [(i, j) for j in range(starts) for i in range(j)]  # i is at least as high as j
    ends = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).to(y.device, non_blocking=True)
    first, second = ends.unbind(1)
    share = constant(_LINE, y.device, y.dtype).view(-1, 1)
    line = torch.lerp(y[:, first, None], y[:, second, None], share)
    between = evaluate_finite(log_density_fn, line.flatten(1, 2))
    between = between.view(num, len(pairs), len(_LINE))
    apart = between.amin(2) < f[:, second] - valley
    kept = is_finite(f)
    kept[:, 0] = True
    for column, (high, low) in enumerate(pairs):  # in this order, ``high`` is decided before
        kept[:, low] &= apart[:, column] | ~kept[:, high]
    position = torch.arange(starts, device=y.device).expand_as(f)
    found = torch.where(kept, position, starts).sort(dim=1).values[:, :num_modes]
    modes = y.take_along_dim(found.clamp(max=starts - 1).unsqueeze(-1), 1)
    modes = modes.masked_fill((found == starts).unsqueeze(-1), torch.nan)
    missing = num_modes - modes.shape[1]
    return torch.cat([modes, modes.new_full((num, max(missing, 0), dim), torch.nan)], dim=1)


def mass_by_nearest(samples: Tensor, weights: Tensor, modes: Tensor, std: Tensor) -> Tensor:
    """Share of p that belongs to each mode, from weighted samples.

        mass_k = Σ_m w_m 1[k = argmin_j ‖L⁻¹ (y_m - μ_j)‖]

    The part of a mode are the points nearest to it. For two hills that are far apart compared with
    their widths, this is the probability of the hill.

    Args:
        samples: (N, M, D) y.
        weights: (N, M), sum 1 over M, from :func:`.importance_weights`.
        modes: (N, K, D) μ, filled up with NaN; the first of each target must exist.
        std: L, the unit of distances: (D,) or (N, D), or lower triangles (N, D, D).

    Returns:
        (N, K) in [0, 1], sum 1 over the modes that exist; NaN where there is none.
    """
    exists = is_finite(modes).all(-1)
    difference = samples.unsqueeze(1) - modes.unsqueeze(2)
    if std.dim() == 3:
        z = torch.linalg.solve_triangular(std.unsqueeze(1).to(samples), difference.mT, upper=False)
        distance = z.square().sum(-2)
    else:
        scale = std if std.dim() == 1 else std[:, None, None]
        distance = (difference / scale).square().sum(-1)
    nearest = distance.masked_fill(~exists.unsqueeze(-1), torch.inf).argmin(1)
    mass = weights.new_zeros(exists.shape).scatter_add(1, nearest, weights)
    return mass.masked_fill(~exists, torch.nan)


def mass_around(
    log_density_fn: LogDensityFn,
    modes: Tensor,
    std: Tensor,
    noise: Tensor,
    widths: Sequence[float] = WIDTHS,
) -> Tensor:
    """Share of p ∝ exp f that belongs to each mode, by importance sampling around the modes.

        q(y) = 1 / (K R) Σ_k Σ_r N(y; μ_k, (a_r L)(a_r L)ᵀ),    a = ``widths``
        y_krm = μ_k + a_r L ε_m,    w = softmax(f(y) - log q(y)),    then :func:`mass_by_nearest`

    One call of f evaluates K R M points of each target. Points are not drawn from q at random but
    the same number from each Gaussian, which makes the estimate less variable and leaves it right.
    Mass that is further from every mode than the largest width is not seen.

    Args:
        log_density_fn: f of N targets.
        modes: (N, K, D) μ, filled up with NaN.
        std: L, the largest width: (D,) or (N, D), or lower triangles (N, D, D).
        noise: ε (M, D), standard normal.
        widths: a (R,), factors on L.

    Returns:
        (N, K), see :func:`mass_by_nearest`; NaN too where f is finite at no point.
    """
    exists = is_finite(modes).all(-1, keepdim=True)
    # A mode that is missing is one more copy of the first, which q may have.
    centres = modes.where(exists, modes[:, :1])
    offsets = noise.to(centres)
    offsets = offsets @ std.mT.to(centres) if std.dim() == 3 else _rows(std) * offsets
    steps = torch.cat([width * offsets for width in widths], dim=-2)
    steps = steps if steps.dim() == 3 else steps.unsqueeze(0)
    samples = (centres.unsqueeze(2) + steps.unsqueeze(1)).flatten(1, 2)
    parts = [
        gaussian_log_density(samples, centre, width * std)
        for centre in centres.unbind(1)
        for width in widths
    ]
    log_q = torch.stack(parts).logsumexp(0) - math.log(len(parts))
    w = importance_weights(evaluate_finite(log_density_fn, samples), log_q)
    mass = mass_by_nearest(samples, w.weights, modes, std)
    return mass.masked_fill((w.ess == 0).unsqueeze(1), torch.nan)


def _rows(std: Tensor) -> Tensor:
    return std.unsqueeze(1) if std.dim() == 2 else std
