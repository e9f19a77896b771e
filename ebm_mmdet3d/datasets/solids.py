"""Objects of a generated scene: vehicles of several shapes, and clutter.

A vehicle consists of a body with rounded corners and a bonnet, a glass cabin, a roof, and two
axles. It touches all six faces of its box, so the box is exact: no other box of the same heading
that contains the vehicle is smaller. Its front differs from its rear.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ebm_mmdet.datasets.ray_casting import Convex, box_vertices, prism_vertices

__all__ = ["VEHICLES", "Vehicle", "clutter", "draw_vehicle", "vehicle_parts"]


class Vehicle(NamedTuple):
    """A type of vehicle. Lengths along x are fractions of its length, heights of its height.

    The cabin stands on the belt line between ``rear`` and ``front`` (from the centre, forwards),
    and its roof is shorter by ``rear_rake`` and ``front_rake``.
    """

    name: str
    size: tuple[float, float, float]
    """Mean length, width, height in metres."""
    spread: tuple[float, float, float]
    """Their standard deviations; sizes are drawn within two of them."""
    belt: float
    rear: float
    rear_rake: float
    front: float
    front_rake: float
    windows: bool = True


VEHICLES = {
    "hatchback": Vehicle("Car", (3.75, 1.63, 1.52), (0.2, 0.05, 0.05), 0.6, -0.47, 0.07, 0.22, 0.2),
    "saloon": Vehicle("Car", (4.4, 1.72, 1.45), (0.2, 0.05, 0.05), 0.6, -0.36, 0.15, 0.2, 0.18),
    "estate": Vehicle("Car", (4.5, 1.8, 1.68), (0.2, 0.05, 0.07), 0.62, -0.48, 0.04, 0.22, 0.16),
    "van": Vehicle("Van", (5.1, 1.9, 2.2), (0.4, 0.1, 0.2), 0.5, -0.49, 0.01, 0.4, 0.14, False),
}

_LIMIT = 2.0  # standard deviations
_WHEEL_RADIUS = 0.31


def draw_vehicle(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, list[Convex]]:
    """Draw size and paint of a vehicle.

    Args:
        rng: Source of randomness.
        kind: A key of `VEHICLES`.

    Returns:
        Length, width and height (3,) in metres; the parts, centred, on z = 0, facing +x.
    """
    vehicle = VEHICLES[kind]
    z = np.clip(rng.standard_normal(3), -_LIMIT, _LIMIT)
    size = np.array(vehicle.size) + z * vehicle.spread
    return size, vehicle_parts(vehicle, size, paint=rng.uniform(0.15, 0.9))


def vehicle_parts(vehicle: Vehicle, size: np.ndarray, paint: float) -> list[Convex]:
    """The parts of a vehicle of ``size`` (3,) l, w, h in metres; see `draw_vehicle`."""
    length, width, height = size
    belt = vehicle.belt * height
    front, rear = vehicle.front * length, vehicle.rear * length
    metal = {"reflectance": paint, "return_rate": 0.97}

    # The widest ring is at the height of the bumpers; below and above it the body is narrower.
    low, high = 0.15 * height, 0.5 * belt
    body = np.concatenate(
        [
            _ring(length - 0.16, width - 0.1, low),
            _ring(length, width, high),
            # A bonnet that slopes down towards the front.
            _ring(length - 0.1, width - 0.06, 0.85 * belt),
            box_vertices((rear, -width / 2 + 0.05, belt - 0.01), (front, width / 2 - 0.05, belt)),
        ]
    )
    top_rear = rear + vehicle.rear_rake * length
    top_front = front - vehicle.front_rake * length
    base, top = width / 2 - 0.07, width / 2 - 0.22
    roof = height - 0.06
    cabin = np.array(
        [(x, side * base, belt) for x in (rear, front) for side in (-1, 1)]
        + [(x, side * top, roof) for x in (top_rear, top_front) for side in (-1, 1)]
    )
    radius = min(_WHEEL_RADIUS, 0.25 * height)
    # The axis is along y; one of the twelve corners is the lowest point, on the ground.
    axle = prism_vertices(radius, 0.04 - width / 2, width / 2 - 0.04, sides=12)[:, [0, 2, 1]]
    axle[:, 2] += radius
    return [
        Convex.hull(body, **metal),
        Convex.hull(
            cabin,
            reflectance=0.1 if vehicle.windows else paint,
            return_rate=0.5 if vehicle.windows else 0.97,
        ),
        Convex.hull(box_vertices((top_rear, -top, roof), (top_front, top, height)), **metal),
        *(
            Convex.hull(axle + np.array([sign * 0.3 * length, 0, 0]), 0.05, 0.85)
            for sign in (-1, 1)
        ),
    ]


def _ring(length: float, width: float, level: float) -> np.ndarray:
    """A rectangle (8, 3) at z = ``level`` with cut corners; the front ones are cut more."""
    x, y = length / 2, width / 2
    points = [
        (x, y - 0.35),
        (x - 0.3, y),
        (0.12 - x, y),
        (-x, y - 0.15),
    ]
    points += [(px, -py) for px, py in reversed(points)]
    return np.array([(px, py, level) for px, py in points])


def clutter(rng: np.random.Generator) -> tuple[list[Convex], tuple[float, float]]:
    """Draw an object that is not a vehicle: a pole, a post, a crate, a bush or a wall.

    Returns:
        Its parts, centred, on z = 0; its extent along x and y in metres.
    """
    kind = rng.choice(5, p=[0.25, 0.2, 0.2, 0.25, 0.1])
    reflectance = rng.uniform(0.1, 0.8)
    if kind in (0, 1):  # a pole, or an object of a person's size
        radius, height = (
            (rng.uniform(0.06, 0.2), rng.uniform(2.5, 6.0))
            if kind == 0
            else (rng.uniform(0.2, 0.35), rng.uniform(1.2, 1.9))
        )
        solid = Convex.hull(prism_vertices(radius, 0.0, height), reflectance)
        return [solid], (2 * radius, 2 * radius)
    if kind == 3:
        radii = np.array([*rng.uniform(0.4, 1.6, 2), rng.uniform(0.4, 1.2)])
        points = rng.standard_normal((16, 3))
        points *= radii / np.linalg.norm(points, axis=1, keepdims=True)
        points[:, 2] += radii[2]
        return [Convex.hull(points, reflectance, return_rate=0.7)], tuple(2 * radii[:2])
    low, high = (
        ((0.5, 0.4, 0.5), (3.0, 1.6, 2.2)) if kind == 2 else ((4.0, 0.2, 0.8), (18.0, 0.5, 5.0))
    )
    length, width, height = rng.uniform(low, high)
    corners = box_vertices((-length / 2, -width / 2, 0.0), (length / 2, width / 2, height))
    return [Convex.hull(corners, reflectance)], (length, width)
