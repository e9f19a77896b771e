"""Generated LiDAR scenes: surfaces of vehicles and clutter on a road, and a spinning sensor.

Coordinates are KITTI's LiDAR frame: x forwards, y to the left, z up, metres, the sensor at the
origin. A box is ``(x, y, z, l, w, h, yaw)``, z the *bottom*, yaw in [-pi, pi) from x towards y. The
box of a vehicle is the exact box of its surface (`solids`), which stands upright on the ground.

There is one ray per beam and column. Each returns from the nearest surface, which gives occlusion;
rays diverge, so the density falls with the square of the range. Range noise, lost pulses (glass,
leaves, grazing incidence) and intensities are added ray by ray. Only numpy and scipy are needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ebm_mmdet.datasets.footprints import overlap, rectangle
from ebm_mmdet.datasets.ray_casting import CLUTTER, NOTHING, DepthImage, RayGrid

from .solids import VEHICLES, clutter, draw_vehicle

__all__ = ["CLASSES", "Lidar", "LidarScene", "SceneOptions", "render_scene"]

CLASSES = ("Car", "Van")

# A prime for this random stream, so that no other generator uses the same (seed, index).
_STREAM = 104729
_PLACEMENT_TRIES = 20
_GAP = 0.3  # free metres around every object
_KINDS = ("hatchback", "saloon", "estate", "van")


@dataclass(frozen=True)
class Lidar:
    """A spinning sensor. The defaults resemble the sensor with which KITTI was recorded.

    Attributes:
        num_beams: number of beams, evenly spaced.
        elevation: lowest and highest beam, degrees.
        azimuth: first and last column, degrees from x towards y; within (-90, 90).
        azimuth_step: degrees between two columns.
        max_range: metres; nothing farther returns.
        range_noise: standard deviation along the ray, metres.
        dropout: fraction of pulses lost at random.
        height: height of the sensor above the ground, metres.
    """

    num_beams: int = 64
    elevation: tuple[float, float] = (-24.8, 2.0)
    azimuth: tuple[float, float] = (-45.0, 45.0)
    azimuth_step: float = 0.17
    max_range: float = 80.0
    range_noise: float = 0.02
    dropout: float = 0.03
    height: float = 1.73

    def rays(self, rng: np.random.Generator) -> RayGrid:
        """The rays of one turn, with a random start and a small random tilt of the beams."""
        first, last = self.azimuth
        columns = np.arange(first + self.azimuth_step * rng.random(), last, self.azimuth_step)
        beams = np.linspace(*self.elevation, self.num_beams)
        if self.num_beams > 1:
            beams = beams + rng.uniform(-0.5, 0.5) * (beams[1] - beams[0])
        return RayGrid(np.radians(beams), np.radians(columns))


@dataclass(frozen=True)
class SceneOptions:
    """Settings of the random scenes.

    Attributes:
        extent: range ``(x_min, y_min, x_max, y_max)`` of the centres of all objects, metres.
        num_vehicles: smallest and largest intended number of vehicles; a crowded scene may get
            fewer.
        num_clutter: the same for other objects.
        van_share: fraction of vans among the vehicles.
        lidar: the sensor.

    Raises:
        ValueError: the extent is empty, or too close to the sensor or behind it.
    """

    extent: tuple[float, float, float, float] = (5.0, -30.0, 65.0, 30.0)
    num_vehicles: tuple[int, int] = (4, 14)
    num_clutter: tuple[int, int] = (10, 25)
    van_share: float = 0.1
    lidar: Lidar = field(default_factory=Lidar)

    def __post_init__(self) -> None:
        x_min, y_min, x_max, y_max = self.extent
        if not (3.5 <= x_min < x_max and y_min < y_max):
            raise ValueError(
                f"extent={self.extent}; expected (x_min, y_min, x_max, y_max) in metres with "
                "x_min of at least 3.5 (nothing stands on the sensor) and maxima above the minima"
            )

    @classmethod
    def from_config(cls, config: dict | None) -> SceneOptions:
        """The options from a dictionary of the attributes, in which ``lidar`` is a dictionary."""
        config = dict(config or {})
        lidar = Lidar(**{k: _frozen(v) for k, v in (config.pop("lidar", None) or {}).items()})
        return cls(lidar=lidar, **{k: _frozen(v) for k, v in config.items()})


def _frozen(value):
    return tuple(value) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class LidarScene:
    """A point cloud and its vehicles.

    Attributes:
        points: (N, 4) float32 x, y, z in metres, intensity in [0, 1].
        source: (N,) int32, row in ``boxes`` of the vehicle that reflected the point; -1 ground,
            -2 clutter.
        boxes: (M, 7) float64, in the format of this module.
        labels: (M,) int64 into `CLASSES`.
        occlusion: (M,) fraction of a vehicle's rays that a nearer object blocks, in [0, 1]; 1 for
            a vehicle that no ray meets.
        hits: (M,) int64, number of returns from each vehicle.
    """

    points: np.ndarray
    source: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    occlusion: np.ndarray
    hits: np.ndarray


def render_scene(seed: int, index: int, options: SceneOptions | None = None) -> LidarScene:
    """Generate scene `index` of the endless set `seed`; equal arguments give the same scene.

    Args:
        seed: Number of the set, ``>= 0``.
        index: Number of the scene in the set, ``>= 0``.
        options: Settings of the scene.

    Raises:
        ValueError: Negative seed or index.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be >= 0, got seed={seed}, index={index}")
    options = options or SceneOptions()
    rng = np.random.default_rng([_STREAM, seed, index])
    boxes, labels, parts, others = _place(rng, options)

    lidar = options.lidar
    image = DepthImage(lidar.rays(rng))
    slope = rng.normal(0.0, 0.004, 2)
    image.add_ground(-lidar.height, slope, reflectance=rng.uniform(0.15, 0.4))
    rays = []
    for number, (box, solids) in enumerate(zip(boxes, parts)):
        box[2] = slope @ box[:2] - lidar.height
        placed = [solid.placed(box[6], box[:3]) for solid in solids]
        rays.append(image.add(placed, number))
    for solids, (x, y, yaw) in others:
        z = slope @ (x, y) - lidar.height
        image.add([solid.placed(yaw, (x, y, z)) for solid in solids], CLUTTER)

    met = np.array([mask.sum() for mask in rays], np.int64)
    seen = np.array([(image.source == k).sum() for k in range(len(boxes))], np.int64)
    points, source = _returns(rng, image, lidar)
    hits = np.array([(source == k).sum() for k in range(len(boxes))], np.int64)
    return LidarScene(points, source, boxes, labels, 1 - seen / np.maximum(met, 1), hits)


def _returns(
    rng: np.random.Generator, image: DepthImage, lidar: Lidar
) -> tuple[np.ndarray, np.ndarray]:
    """The returns of the sensor: points (N, 4) float32 and their sources (N,)."""
    # Pulses at grazing incidence are lost, half of them at three degrees.
    rate = image.return_rate * (1 - lidar.dropout) * (1 - np.exp(-image.cosine / 0.075))
    back = (image.source != NOTHING) & (image.distance <= lidar.max_range)
    back &= rng.random(rate.shape) < rate
    distance = image.distance[back]
    noisy = distance + lidar.range_noise * rng.standard_normal(len(distance))
    intensity = image.reflectance[back] * (0.25 + 0.75 * image.cosine[back])
    intensity += 0.02 * rng.standard_normal(len(distance))
    points = np.column_stack([image.directions[back] * noisy[:, None], np.clip(intensity, 0, 1)])
    return points.astype(np.float32), image.source[back]


def _place(rng: np.random.Generator, options: SceneOptions):
    """Draw objects that do not touch: boxes (z is set later), labels, solids; clutter."""
    footprints: list[np.ndarray] = []
    boxes, labels, parts, others = [], [], [], []

    def free(x: float, y: float, yaw: float, length: float, width: float) -> bool:
        corners = rectangle(x, y, yaw, length + 2 * _GAP, width + 2 * _GAP)
        if (corners[:, 0] < 1.5).any() and (np.abs(corners[:, 1]) < 2.5).any():
            return False  # too close to the sensor
        if any(overlap(corners, other) for other in footprints):
            return False
        footprints.append(rectangle(x, y, yaw, length, width))
        return True

    for _ in range(int(rng.integers(options.num_vehicles[0], options.num_vehicles[1] + 1))):
        kind = "van" if rng.random() < options.van_share else _KINDS[int(rng.integers(3))]
        (length, width, height), solids = draw_vehicle(rng, kind)
        for _ in range(_PLACEMENT_TRIES):
            x, y = _position(rng, options)
            yaw = _heading(rng)
            if free(x, y, yaw, length, width):
                boxes.append([x, y, 0.0, length, width, height, yaw])
                labels.append(CLASSES.index(VEHICLES[kind].name))
                parts.append(solids)
                break
    for _ in range(int(rng.integers(options.num_clutter[0], options.num_clutter[1] + 1))):
        solids, size = clutter(rng)
        for _ in range(_PLACEMENT_TRIES):
            x, y = _position(rng, options)
            if size[0] > 4 and abs(y) < 9:
                continue  # no wall on the road
            yaw = rng.normal(0, 0.1) if size[0] > 4 else rng.uniform(-math.pi, math.pi)
            if free(x, y, yaw, *size):
                others.append((solids, (x, y, yaw)))
                break
    return np.array(boxes, float).reshape(-1, 7), np.array(labels, np.int64), parts, others


def _position(rng: np.random.Generator, options: SceneOptions) -> tuple[float, float]:
    """A point of the extent within the sensor's field of view."""
    x_min, y_min, x_max, y_max = options.extent
    first, last = np.tan(np.radians(np.clip(options.lidar.azimuth, -89, 89)))
    x = rng.uniform(x_min, x_max)
    return x, rng.uniform(max(y_min, first * x), min(y_max, last * x))


def _heading(rng: np.random.Generator) -> float:
    """A yaw along the road in either direction, across it, or in any direction; in [-pi, pi)."""
    choice = rng.random()
    if choice < 0.5:
        yaw = math.pi * rng.integers(2) + rng.normal(0, 0.06)
    elif choice < 0.7:
        yaw = math.pi * (rng.integers(2) - 0.5) + rng.normal(0, 0.06)
    else:
        yaw = rng.uniform(-math.pi, math.pi)
    return (yaw + math.pi) % (2 * math.pi) - math.pi
