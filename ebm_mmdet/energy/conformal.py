r"""Split conformal prediction: intervals whose coverage holds for any score and any distribution.

A score says how far a truth lies outside of what was predicted, in units of the predicted spread.
Of :math:`n` calibration scores, the :math:`\lceil (n + 1) \ell \rceil`-th smallest bounds the score
of a further one with probability :math:`\ell` or more, if all of them are exchangeable. Nothing
else is assumed: neither that the spread is right, nor that errors are Gaussian.

Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Lei et al., JASA
2018 (1604.04173), sec. 2.2 and 5.2 (scores in units of a spread).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "conformal_quantile",
    "expected_coverage",
    "fewest_scores",
    "grouped_quantiles",
    "interval_scores",
]

_ROUNDING = 1e-9
"""Numbers of scores closer than this are equal: 0.55 x 100 is 55.00000000000001."""


def interval_scores(residual: Tensor, spread: Tensor) -> Tensor:
    r"""How often its spread a truth lies from the prediction, for each coordinate:

    .. math:: e = \max(-r / s^-, \; r / s^+), \qquad r = y - \hat y

    so that :math:`y \in [\hat y - q s^-, \hat y + q s^+]` if and only if :math:`e \le q`, for
    :math:`q \ge 0`.

    Args:
        residual: (n, D) truth minus prediction.
        spread: (n, D, 2) positive spreads below and above the prediction, in the unit of
            ``residual``.

    Returns:
        (n, D); infinite where the residual is not finite, or the spread is not finite or not
        positive.
    """
    below, above = spread.unbind(-1)
    score = torch.maximum(-residual / below, residual / above)
    known = residual.isfinite() & (spread.isfinite() & (spread > 0)).all(-1)
    return torch.where(known, score, math.inf)


def conformal_quantile(scores: Tensor, level: float, clusters: Tensor | None = None) -> Tensor:
    r"""The bound on a further score that holds with probability ``level``.

    Without ``clusters`` it is the :math:`\lceil (n + 1) \ell \rceil`-th smallest of :math:`n`
    exchangeable scores; infinite if that is more than :math:`n`. The coverage is at least
    :math:`\ell`, and without ties below :math:`\ell + 1 / (n + 1)`.

    With ``clusters``, which are exchangeable where their members are not independent (boxes in an
    image), it is the :math:`\ell`-quantile of

    .. math:: \sum_k \sum_{i \in k} \frac{1}{(K + 1) n_k} \delta_{e_i}
        + \frac{1}{K + 1} \delta_\infty

    and bounds a random member of a further cluster. Clusters of one member each give the first.

    Args:
        scores: (n,) or (n, D), columns independently; NaN counts as infinite.
        level: probability in (0, 1).
        clusters: (n,) integers, the same for members of one cluster.

    Returns:
        () or (D,), in the type of ``scores``.

    Raises:
        ValueError: ``level`` is not between 0 and 1.

    Source: Lee, Barber and Willett, 2023 (2306.06342), sec. 3, for clusters.
    """
    _check_level(level)
    values = torch.where(scores.isnan(), math.inf, scores).double()
    values = values.unsqueeze(1) if values.dim() == 1 else values
    if clusters is None:
        weight, number = values.new_ones(len(values)), len(values)
    else:
        _, member_of, counts = clusters.unique(return_inverse=True, return_counts=True)
        weight, number = 1 / counts.double()[member_of], len(counts)
    ordered, order = values.sort(dim=0)
    # In units of 1 / (number + 1), so that weights of one are exact.
    reached = weight[order].cumsum(0) >= level * (number + 1) - _ROUNDING
    position = (~reached).sum(0, keepdim=True)
    ordered = torch.cat((ordered, ordered.new_full((1, ordered.shape[1]), math.inf)))
    return ordered.gather(0, position).reshape(scores.shape[1:]).to(scores.dtype)


def fewest_scores(level: float) -> int:
    """The smallest number of scores, or clusters, from which a finite bound follows.

    Raises:
        ValueError: ``level`` is not between 0 and 1.
    """
    _check_level(level)
    return math.ceil(level / (1 - level) - _ROUNDING)


def expected_coverage(number: int, level: float) -> tuple[float, float]:
    r"""Mean and standard deviation of the coverage over draws of the calibration scores.

    Given the calibration scores, the probability that a further score is below its bound is
    distributed as :math:`\mathrm{Beta}(k, n + 1 - k)` with :math:`k = \lceil (n + 1) \ell \rceil`,
    if scores are independent and continuous. With (1, 0) if there are too few of them.

    Raises:
        ValueError: ``level`` is not between 0 and 1.

    Source: Vovk, ACML 2012 (1209.2673), proposition 2.
    """
    _check_level(level)
    k = math.ceil((number + 1) * level - _ROUNDING)
    if k > number:
        return 1.0, 0.0
    mean = k / (number + 1)
    return mean, math.sqrt(mean * (1 - mean) / (number + 2))


def grouped_quantiles(
    scores: Tensor,
    level: float,
    first: Tensor,
    second: Tensor,
    shape: tuple[int, int],
    min_count: int = 100,
    clusters: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A bound for each pair of two groupings, from the narrowest group that is large enough.

    The groups that a pair may get its bound from are, in this order: the pair, its ``first``, its
    ``second``, all scores. The coverage holds for members of the group that gave the bound.

    Args:
        scores: (n, D).
        level: probability in (0, 1).
        first: (n,) integers in [0, A).
        second: (n,) integers in [0, B).
        shape: (A, B).
        min_count: fewest scores (or clusters) of a group; :func:`fewest_scores` if that is more.
        clusters: see :func:`conformal_quantile`.

    Returns:
        Bounds (A + 1, B + 1, D), where the last row and column are for scores whose ``first`` or
        ``second`` is not known; the number of scores (or clusters) behind each, (A + 1, B + 1)
        int64; and which group it was, (A + 1, B + 1) int64: 0 pair, 1 first, 2 second, 3 all.

    Raises:
        ValueError: there are fewer than :func:`fewest_scores` in all.
    """
    needed = fewest_scores(level)
    least = max(min_count, needed)

    def bound(mask: Tensor) -> tuple[Tensor, int]:
        members = None if clusters is None else clusters[mask]
        number = int(mask.sum()) if members is None else len(members.unique())
        return conformal_quantile(scores[mask], level, members), number

    everything, number = bound(torch.ones(len(scores), dtype=torch.bool, device=scores.device))
    if number < needed:
        raise ValueError(
            f"{number} scores cannot bound a further one with probability {level}; it takes "
            f"{needed} at least"
        )
    rows, columns = shape
    of_first = [bound(first == a) for a in range(rows)]
    of_second = [bound(second == b) for b in range(columns)]
    table = everything.expand(rows + 1, columns + 1, -1).clone()
    counts = torch.full((rows + 1, columns + 1), number)
    source = torch.full((rows + 1, columns + 1), 3)
    for a in range(rows + 1):
        for b in range(columns + 1):
            choices = [
                (0, bound((first == a) & (second == b))) if a < rows and b < columns else None,
                (1, of_first[a]) if a < rows else None,
                (2, of_second[b]) if b < columns else None,
            ]
            for choice in choices:
                if choice is not None and choice[1][1] >= least:
                    source[a, b], (table[a, b], counts[a, b]) = choice
                    break
    return table, counts, source


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level}; give a probability between 0 and 1, such as 0.9")
