"""Between labels in their own units and the standardised coordinates of the densities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmdet.registry import TASK_UTILS
from torch import Tensor, nn

__all__ = ["TargetCodec"]

# Points of the unit cell of an integer label at which its density is averaged.
_CELL_POINTS = 16


@TASK_UTILS.register_module()
class TargetCodec(nn.Module):
    r"""Standardised coordinates z of labels y, and the region where densities live.

        z_d = (y_d - mean_d) / std_d          log p(y) = log p(z) - Σ_d log std_d

    A periodic coordinate is an angle z in radians: mean = 0 and std = period / 2π. With
    ``dequantise``, an integer label stands for its unit cell, y + U(-½, ½) per coordinate: the
    likelihood of a continuous density at integers has no bound, whereas here

        -E_u log p(y + u) ≥ -log P(y - ½ < Y < y + ½) ≥ entropy of the labels, on average

    The region where densities are normalised (the *support*) is the product of the declared ranges,
    which dequantisation widens by ½ at both ends.

    Mean and standard deviation are buffers, because a model that was trained with them is only
    valid with them, and a checkpoint has to hold them. They stay float32 in a model of half
    precision. Without ``mean`` and ``std``, they are those of the uniform density over the range,
    until ``FitTargetCodecHook`` sets them from the training labels.

    Args:
        ranges: (low, high) of each of the D coordinates, in units of the label.
        mean: D numbers, or None.
        std: D numbers, or None.
        periods: period of each coordinate, or None for one that is not periodic; a range has to be
            one period long.
        dequantise: whether labels are integers that stand for their unit cells.

    Raises:
        ValueError: lengths do not agree, a range is empty, a standard deviation is not positive,
            only one of mean and std is given, or a range is not one period.
    """

    mean: Tensor
    std: Tensor
    _fitted: Tensor
    _raw_low: Tensor
    _raw_high: Tensor

    def __init__(
        self,
        ranges: Sequence[tuple[float, float]],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        periods: Sequence[float | None] | None = None,
        dequantise: bool = False,
    ) -> None:
        super().__init__()
        table = torch.as_tensor(ranges, dtype=torch.float64)
        if table.dim() != 2 or table.shape[1] != 2 or not len(table):
            raise ValueError(f"ranges={ranges}; expected (low, high) for each coordinate.")
        dim = len(table)
        self.periods = tuple(periods) if periods is not None else (None,) * dim
        if len(self.periods) != dim:
            raise ValueError(f"periods={periods} for {dim} ranges; give one (or None) for each.")
        if not (table.isfinite().all() and (table[:, 0] < table[:, 1]).all()):
            raise ValueError(f"ranges={ranges} must be finite, with low < high.")
        for (low, high), period in zip(table.tolist(), self.periods):
            if period is not None and not math.isclose(high - low, period, rel_tol=1e-6):
                raise ValueError(
                    f"the range ({low:g}, {high:g}) of a coordinate with period {period:g} must be "
                    "one period long, such as (-180, 180) for 360."
                )
        if (mean is None) != (std is None):
            raise ValueError(f"mean={mean} and std={std}: give both, or none of them.")
        self.dequantise = bool(dequantise)
        given = mean is not None
        self._periodic = [d for d in range(dim) if self.periods[d] is not None]
        self._linear = [d for d in range(dim) if self.periods[d] is None]
        if self.dequantise:
            table[self._linear] += torch.tensor([-0.5, 0.5], dtype=torch.float64)
        self.register_buffer("_raw_low", table[:, 0].float(), persistent=False)
        self.register_buffer("_raw_high", table[:, 1].float(), persistent=False)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        if mean is None or std is None:
            mean = table.mean(1).tolist()
            std = ((table[:, 1] - table[:, 0]) / math.sqrt(12)).tolist()
        # A buffer, because a loaded model must not be fitted to other labels.
        self.register_buffer("_fitted", torch.tensor(False))
        self.fit(mean, std)
        self._fitted.fill_(given)

    @property
    def fitted(self) -> bool:
        """Whether mean and std come from the config or from labels, and not from the ranges."""
        return bool(self._fitted)

    @property
    def dim(self) -> int:
        """D, the number of coordinates."""
        return len(self.periods)

    @property
    def embedded_dim(self) -> int:
        """Width of :meth:`embed`: a periodic coordinate counts twice."""
        return self.dim + len(self._periodic)

    @property
    def embed_order(self) -> list[int]:
        """The coordinate that each column of :meth:`embed` belongs to."""
        return self._linear + 2 * self._periodic

    @property
    def is_periodic(self) -> bool:
        """Whether any coordinate is periodic."""
        return bool(self._periodic)

    @property
    def periodic_mask(self) -> Tensor:
        """(D,) bool, True for angles."""
        return torch.tensor([p is not None for p in self.periods], device=self.mean.device)

    @property
    def label_ranges(self) -> Tensor:
        """(D, 2) declared ranges of labels, in their units."""
        ends = torch.stack([self._raw_low, self._raw_high], 1)
        if self.dequantise:
            ends[self._linear] += torch.tensor([0.5, -0.5], device=ends.device)
        return ends

    @property
    def low(self) -> Tensor:
        """(D,) lower end of the support, standardised."""
        return self.encode(self._raw_low)

    @property
    def high(self) -> Tensor:
        """(D,) upper end of the support, standardised."""
        return self.encode(self._raw_high)

    @property
    def log_scale(self) -> Tensor:
        """Σ_d log std_d, which log p(z) - log p(y) equals."""
        return self.std.log().sum()

    @property
    def log_volume(self) -> Tensor:
        """Log of the volume of the support, standardised."""
        return (self.high - self.low).log().sum()

    def fit(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        """Set mean and standard deviation (D,) of the labels; periodic coordinates keep theirs.

        Raises:
            ValueError: a number is missing, not finite, or a standard deviation is not positive.
        """
        rows = [torch.as_tensor(value, dtype=torch.float64).flatten() for value in (mean, std)]
        for d in self._periodic:
            if all(len(row) == self.dim for row in rows):
                rows[0][d], rows[1][d] = 0.0, self.periods[d] / (2 * math.pi)
        if (
            any(len(row) != self.dim or not row.isfinite().all() for row in rows)
            or not (rows[1] > 0).all()
        ):
            raise ValueError(
                f"mean={rows[0].tolist()} and std={rows[1].tolist()} of labels: expected "
                f"{self.dim} finite numbers each, and std positive; a coordinate that never "
                "varies has no density to learn."
            )
        self.mean.copy_(rows[0])
        self.std.copy_(rows[1])
        self._fitted.fill_(True)

    def copy_statistics(self, other: TargetCodec) -> None:
        """Take over mean and standard deviation of another codec, and whether they were fitted."""
        self.fit(other.mean, other.std)
        self._fitted.copy_(other._fitted)

    def encode(self, y: Tensor) -> Tensor:
        """Labels (..., D) in their units -> z (..., D) float32, not wrapped."""
        return (y.to(self.mean.dtype) - self.mean) / self.std

    def decode(self, z: Tensor, wrap: bool = True) -> Tensor:
        """Map z (..., D) to the units of labels; periodic coordinates end inside their range."""
        y = torch.addcmul(self.mean, z, self.std)
        return self._wrapped(y, self._raw_low, self._raw_high) if wrap else y

    def wrap(self, z: Tensor) -> Tensor:
        """Wrap periodic coordinates of z (..., D) into the support; others are unchanged."""
        return self._wrapped(z, self.low, self.high)

    def project(self, z: Tensor) -> Tensor:
        """The nearest point of the support: wrapped if periodic, else clamped."""
        return self._wrapped(z.clamp(self.low, self.high), self.low, self.high, z)

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """Subtract b from a (..., D), standardised; of angles the difference in [-π, π)."""
        difference = a - b
        return self._wrapped(
            difference,
            torch.full_like(self.mean, -math.pi),
            torch.full_like(self.mean, math.pi),
        )

    def contains(self, z: Tensor) -> Tensor:
        """Whether points z (..., D) are in the support, (...) bool; NaN is not, angles are."""
        inside = (z >= self.low) & (z <= self.high)
        if self._periodic:
            inside = inside | (self.periodic_mask & z.isfinite())
        return inside.all(-1)

    def embed(self, z: Tensor) -> Tensor:
        """What a network reads of z (..., D): linear coordinates, then cosines and sines of angles.

        Returns:
            (..., :attr:`embedded_dim`).
        """
        if not self._periodic:
            return z
        angle = z[..., self._periodic]
        return torch.cat([z[..., self._linear], angle.cos(), angle.sin()], dim=-1)

    def unembed(self, values: Tensor) -> Tensor:
        """Inverse of :meth:`embed`, also for pairs (cos, sin) of any length > 0."""
        if not self._periodic:
            return values
        linear, cos, sin = values.split(
            [len(self._linear), len(self._periodic), len(self._periodic)], dim=-1
        )
        z = values.new_empty(*values.shape[:-1], self.dim)
        z[..., self._linear], z[..., self._periodic] = linear, torch.atan2(sin, cos)
        return z

    def noisy(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Labels (..., D) with uniform noise from their unit cells, if they are to be dequantised.

        Args:
            y: labels in their units.
            generator: source of randomness, on the device of ``y``.
        """
        y = y.float()
        if not self.dequantise:
            return y
        return y + torch.rand(y.shape, generator=generator, device=y.device) - 0.5

    def cell(self, y: Tensor) -> Tensor:
        """Points (N, Q, D) of the unit cells of labels (N, D), or the labels themselves, Q = 1.

        The points are a fixed Latin hypercube: in each coordinate the midpoints of Q equal parts.
        Means over them estimate E_u log p(y + u), in the same way for every method.
        """
        y = y.float().unsqueeze(1)
        if not self.dequantise:
            return y
        parts = (torch.arange(_CELL_POINTS) + 0.5) / _CELL_POINTS - 0.5
        orders = torch.Generator().manual_seed(0)
        columns = [parts]
        for _ in range(1, self.dim):
            columns.append(parts[torch.randperm(_CELL_POINTS, generator=orders)])
        return y + torch.stack(columns, dim=1).to(y.device)

    def _wrapped(
        self, z: Tensor, low: Tensor, high: Tensor, original: Tensor | None = None
    ) -> Tensor:
        if not self._periodic:
            return z
        original = z if original is None else original
        turned = torch.remainder(original - low, high - low)
        # A tiny negative number has the remainder `period`, which the range does not include.
        turned = turned.where(turned < high - low, 0)
        return (turned + low).where(self.periodic_mask, z)

    def _load_from_state_dict(
        self,
        state_dict: dict,
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load, but leave angles in radians, whatever the model of the checkpoint read.

        Their mean and standard deviation say what an angle is: with those of another period, or of
        a coordinate that was not periodic, wrapping would tear the circle open.
        """
        own = self.mean.clone(), self.std.clone()
        keys = missing_keys, unexpected_keys, error_msgs
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *keys)
        index = self._periodic
        if not index or all(
            torch.allclose(now[index], before[index], rtol=1e-4, atol=1e-4)
            for now, before in zip((self.mean, self.std), own)
        ):
            return
        error_msgs.append(
            f"labels of mean {self.mean.tolist()} and std {self.std.tolist()} are not those of "
            f"periods={self.periods}: the checkpoint was trained with other periods. Those of the "
            "config are kept; train again, or give the codec the periods of the checkpoint"
        )
        with torch.no_grad():
            for buffer, before in zip((self.mean, self.std), own):
                buffer[index] = before[index]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TargetCodec:
        # Moved to other devices, but never rounded to half precision.
        return super()._apply(lambda t: _not_rounded(fn, t), recurse)

    def extra_repr(self) -> str:
        """Settings shown when the model is printed."""
        ranges = torch.stack([self._raw_low, self._raw_high], 1).tolist()
        shown: dict[str, Any] = {"support": ranges, "periods": self.periods}
        shown |= {"mean": self.mean.tolist(), "std": self.std.tolist()}
        return ", ".join(f"{name}={value}" for name, value in shown.items())


def _not_rounded(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    moved = fn(tensor)
    if moved.dtype == torch.promote_types(moved.dtype, tensor.dtype):
        return moved
    return tensor.to(moved.device)
