"""What people sit and lie on: beds, chairs, pillows and sofas; see `furniture`."""

from __future__ import annotations

import math

import numpy as np

from .solids import block, column, cushion, legs

__all__ = ["SOFT_FURNITURE"]


def _bed(rng: np.random.Generator):
    width, length = rng.choice([0.95, 1.4, 1.7]) * rng.uniform(0.95, 1.1), rng.uniform(1.95, 2.2)
    base, top = rng.uniform(0.22, 0.32), rng.uniform(0.45, 0.62)
    x, y = width / 2, length / 2
    back = rng.uniform(0.04, 0.1)
    parts = [
        block((-x, -y, 0.1), (x, y - back, base)),
        block((-x + 0.02, -y + 0.03, base), (x - 0.02, y - back, top), top=(0.96, 0.98)),
    ]
    height = top
    if rng.random() < 0.85:  # a headboard
        height = top + rng.uniform(0.2, 0.55)
        parts.append(block((-x - 0.02, y - back, 0), (x + 0.02, y, height)))
    if rng.random() < 0.35:  # a footboard
        parts.append(block((-x - 0.02, -y - 0.04, 0), (x + 0.02, -y, top + rng.uniform(0.0, 0.2))))
    else:
        parts += legs(width, length - 0.1, 0.1, 0.08)
    if rng.random() < 0.6:  # a blanket that hangs over the sides
        share = rng.uniform(0.35, 0.65)
        parts.append(
            block((-x - 0.03, -y - 0.02, 0.2), (x + 0.03, -y + share * length, top + 0.03))
        )
    return (width + 0.06, length + 0.04, height), parts, top


def _chair(rng: np.random.Generator, office: bool | None = None):
    office = rng.random() < 0.35 if office is None else office
    width, depth = rng.uniform(0.4, 0.52), rng.uniform(0.4, 0.52)
    seat, height = rng.uniform(0.42, 0.5), rng.uniform(0.78, 1.02)
    x, y, thick = width / 2, depth / 2, rng.uniform(0.03, 0.09)
    parts = [block((-x, -y, seat - thick), (x, y, seat), top=(0.97, 0.97))]
    lean, back = rng.uniform(0.02, 0.14), rng.uniform(0.025, 0.07)
    start = seat + (rng.uniform(0.1, 0.2) if rng.random() < 0.5 else 0.0)
    parts.append(
        block(
            (-x * 0.95, y - back, start),
            (x * 0.95, y, height),
            top=(rng.uniform(0.8, 1), 1),
            lean=lean,
        )
    )
    if start > seat:  # posts carry the back
        parts += [
            block(
                (s * x * 0.75 - 0.02, y - 0.04, seat - thick),
                (s * x * 0.75 + 0.02, y, start + 0.05),
            )
            for s in (-1, 1)
        ]
    if office:
        parts.append(column((0, 0), 0.08, seat - thick, (0.035, 0.035), 6))
        turn = rng.uniform(0, math.pi)
        for k in range(3):  # three beams are a star of six feet
            beam = block((-0.29, -0.025, 0.02), (0.29, 0.025, 0.1), top=(0.6, 1.0))
            parts.append(beam.placed(turn + k * math.pi / 3, (0, 0, 0)))
    else:
        parts += legs(width, depth, seat - thick, rng.uniform(0.03, 0.055), 0.01)
    if rng.random() < 0.4:  # arms
        level = seat + rng.uniform(0.17, 0.25)
        for s in (-1, 1):
            parts.append(
                block((s * x - 0.025, -y + 0.05, level), (s * x + 0.025, y, level + 0.035))
            )
            parts.append(
                block((s * x - 0.02, -y + 0.08, seat - 0.02), (s * x + 0.02, -y + 0.12, level))
            )
    return (width + 0.05, depth, height), parts, seat


def _pillow(rng: np.random.Generator):
    width, length = rng.uniform(0.42, 0.7), rng.uniform(0.36, 0.5)
    height = rng.uniform(0.13, 0.22)
    return (width, length, height), [cushion(width, length, height)]


def _sofa(rng: np.random.Generator):
    width, depth = (
        rng.choice([rng.uniform(0.85, 1.1), rng.uniform(1.4, 2.3)]),
        rng.uniform(0.8, 1.0),
    )
    seat, height = rng.uniform(0.38, 0.46), rng.uniform(0.72, 0.95)
    x, y = width / 2, depth / 2
    feet = rng.uniform(0.03, 0.12)
    back = rng.uniform(0.18, 0.26)
    arm = rng.uniform(0.12, 0.24)
    parts = [
        block((-x, -y, feet), (x, y, seat - 0.13)),
        block((-x, y - back, feet), (x, y, height), top=(1.0, rng.uniform(0.6, 0.9)), lean=0.03),
    ]
    for s in (-1, 1):
        low, high = sorted((s * x, s * (x - arm)))
        parts.append(block((low, -y, feet), (high, y, seat + rng.uniform(0.12, 0.25))))
    number = max(1, round((width - 2 * arm) / 0.65))
    step = (width - 2 * arm) / number
    for k in range(number):
        left = -x + arm + k * step
        parts.append(
            block(
                (left + 0.01, -y - 0.02, seat - 0.13),
                (left + step - 0.01, y - back, seat),
                top=(0.95, 0.97),
            )
        )
    parts += legs(width, depth, feet, 0.06, 0.04)
    return (width, depth + 0.02, height), parts, seat


SOFT_FURNITURE = {
    "bed": _bed,
    "chair": _chair,
    "pillow": _pillow,
    "sofa": _sofa,
}
