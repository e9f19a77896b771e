"""What the generated tasks have in common: streams of random numbers and the way to a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..truth import Truth

__all__ = ["SIZE", "GeneratedTask", "Sample"]

SIZE = 64
"""Width and height of every generated image, in pixels."""

_LABELS, _PIXELS = 0, 1


class Sample(NamedTuple):
    """One generated image and everything known about it."""

    image: np.ndarray
    """``(64, 64, 3)`` uint8 BGR."""
    target: np.ndarray
    """``(D,)`` float32, raw units."""
    latent: dict[str, Any]
    """State from which the image was painted."""
    truth: Truth | None
    """Density of the label given the image; None where it is not known."""


@dataclass(frozen=True)
class GeneratedTask:
    """A task whose sample is a function of ``(variant, seed, index)`` alone.

    The label needs no image, so `label` costs microseconds.

    Args:
        name: name of the task; also chooses its random streams.
        variants: names of the variants; the first one is the default.
        describe: ``variant -> dict(names, units, ranges, periods, flip_signs, integer)``, the
            entry ``target`` of a data set's metainfo.
        draw: ``(rng, variant) -> latent``.
        truth: ``latent -> Truth``; None where the density of the label is not known.
        paint: ``(latent, rng) -> image (64, 64, 3) or (64, 64) uint8``.
        exact: ``latent -> label``, for latents without a known density.
        group: ``latent -> name`` of the kind of image, for results by kind.
    """

    name: str
    variants: tuple[str, ...]
    describe: Callable[[str], dict]
    draw: Callable[[np.random.Generator, str], dict]
    paint: Callable[[dict, np.random.Generator], np.ndarray]
    truth: Callable[[dict], Truth | None]
    exact: Callable[[dict], Any] | None = None
    group: Callable[[dict], str] | None = field(default=None)

    def stream(self, seed: int, index: int, what: int = _PIXELS) -> np.random.Generator:
        """Generator of one image; every ``(task, seed, index, what)`` has a stream of its own."""
        if not (0 <= seed < 2**32 and 0 <= index < 2**63):
            raise ValueError(
                f"seed must be in 0 .. 2**32 - 1 and index in 0 .. 2**63 - 1, got seed={seed}, "
                f"index={index}"
            )
        # A key of Philox is two words of 64 bits; different keys give independent streams.
        name = sum(byte << (8 * i) for i, byte in enumerate(self.name.encode()[:3]))
        key = np.array([seed | name << 32 | what << 60, index], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def label(
        self, seed: int, index: int, variant: str | None = None
    ) -> tuple[np.ndarray, dict[str, Any], Truth | None]:
        """Return target ``(D,)`` float32, latent state and truth, without painting the image.

        Raises:
            ValueError: unknown variant, or a seed or index out of range.
        """
        variant = self.variants[0] if variant is None else variant
        if variant not in self.variants:
            raise ValueError(
                f"the task {self.name!r} has no variant {variant!r}; it has "
                f"{', '.join(map(repr, self.variants))}"
            )
        rng = self.stream(seed, index, _LABELS)
        latent = self.draw(rng, variant)
        truth = self.truth(latent)
        if truth is not None:
            target = truth.sample(rng)
        elif self.exact is not None:
            target = self.exact(latent)
        else:
            raise TypeError(f"the task {self.name!r} gives neither a truth nor an exact label")
        return np.asarray(target, np.float32).reshape(-1), latent, truth

    def image(self, seed: int, index: int, latent: dict) -> np.ndarray:
        """Paint the image ``(64, 64, 3)`` uint8 BGR, or ``(64, 64)`` if it is grey."""
        return self.paint(latent, self.stream(seed, index, _PIXELS))

    def render(self, seed: int, index: int, variant: str | None = None) -> Sample:
        """Render sample `index` of the endless set `seed`; equal arguments give the same sample.

        Args:
            seed: number of the set, ``0 <= seed < 2**32``.
            index: number of the image in the set, ``>= 0``.
            variant: one of `variants`; the first one if None.

        Returns:
            Image, target, latent state and truth.

        Raises:
            ValueError: unknown variant, or a seed or index out of range.
        """
        target, latent, truth = self.label(seed, index, variant)
        image = self.image(seed, index, latent)
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        return Sample(image, target, latent, truth)
