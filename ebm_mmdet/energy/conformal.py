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
    r"""How many spreads the truth lies from the prediction, for each coordinate:

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
    if scores are independent and continuous.

    Args:
        number: n, of calibration scores.
        level: probability in (0, 1).

    Returns:
        Mean and standard deviation, in [0, 1]; (1, 0) if n is below :func:`fewest_scores`, where
        the bound is infinite.

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
    """A bound for each pair of two groupings, from groups that are large enough.

    Every pair belongs to one group: itself, if it has ``min_count`` scores; else what such pairs
    leave of its ``first``, if that is enough; else what is left of its ``second``; else what is
    left of all. If that last group is too small, it joins the smallest other one. Because no score
    is in two groups, the bounds hold with probability ``level`` in each group and in all. (With the
    bounds of all scores for small groups they would not: pairs with bounds of their own would be
    covered as often as promised, and the others less, if they are worse than the mean.)

    Args:
        scores: (n, D).
        level: probability in (0, 1).
        first: (n,) integers in [0, A).
        second: (n,) integers in [0, B).
        shape: (A, B).
        min_count: fewest scores (or clusters) of a group; :func:`fewest_scores` if that is more.
        clusters: see :func:`conformal_quantile`.

    Returns:
        Bounds (A + 1, B + 1, D); the number of scores (or clusters) behind each, (A + 1, B + 1)
        int64; and which group it was, (A + 1, B + 1) int64: 0 the pair, 1 the rest of its first, 2
        the rest of its second, 3 the rest of all or two groups that were joined, 4 all scores. The
        last is for the last row and column, where ``first`` or ``second`` is not known, and for
        pairs without any score in their group.

    Raises:
        ValueError: there are fewer than :func:`fewest_scores` in all.
    """
    needed = fewest_scores(level)
    least = max(min_count, needed)
    rows, columns = shape
    pair = first * columns + second

    def number(cells: list[int]) -> int:
        mask = torch.isin(pair, torch.tensor(cells, device=pair.device))
        return int(mask.sum()) if clusters is None else len(clusters[mask].unique())

    everything = list(range(rows * columns))
    if (total := number(everything)) < needed:
        raise ValueError(
            f"{total} scores cannot bound a further one with probability {level}; it takes "
            f"{needed} at least"
        )
    groups: list[tuple[list[int], int, int]] = []  # pairs, number of scores, source
    left = set(everything)
    for source, proposals in enumerate(
        [
            [[cell] for cell in everything],
            [[a * columns + b for b in range(columns)] for a in range(rows)],
            [[a * columns + b for a in range(rows)] for b in range(columns)],
            [everything],
        ]
    ):
        for proposal in proposals:
            cells = sorted(left.intersection(proposal))
            if cells and (found := number(cells)) >= least:
                groups.append((cells, found, source))
                left -= set(cells)
    remaining = sorted(left)
    if remaining and number(remaining):
        joined = min(groups, key=lambda group: group[1], default=None)
        if joined is not None:
            groups.remove(joined)
            remaining = sorted([*remaining, *joined[0]])
        groups.append((remaining, number(remaining), 3))

    def bound(cells: list[int]) -> Tensor:
        mask = torch.isin(pair, torch.tensor(cells, device=pair.device))
        members = None if clusters is None else clusters[mask]
        return conformal_quantile(scores[mask], level, members)

    table = bound(everything).expand(rows + 1, columns + 1, -1).clone()
    counts = torch.full((rows + 1, columns + 1), total)
    sources = torch.full((rows + 1, columns + 1), 4)
    for cells, found, source in groups:
        here = bound(cells)
        for cell in cells:
            place = divmod(cell, columns)
            table[place], counts[place], sources[place] = here, found, source
    return table, counts, sources


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level}; give a probability between 0 and 1, such as 0.9")
