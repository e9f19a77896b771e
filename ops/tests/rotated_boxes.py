"""Maps, boxes and an independent oracle shared by the tests of pooling on rotated grids."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WHERE = {"origin": (0.3, -4.0), "cell_size": 0.4, "pixel_offset": 0.06}
SIZE = (20, 24)  # rows, columns of the map
GRID = (4, 7)


def to_cells(x, y):
    """(u, v) of a position in metres, numbers or tensors."""
    (x0, y0), cell, offset = WHERE["origin"], WHERE["cell_size"], WHERE["pixel_offset"]
    return (x - x0) / cell - offset, (y - y0) / cell - offset


def random_boxes(count: int, seed: int, margin: float = 0.5) -> Tensor:
    """(count, 5) float64 boxes; their centres leave the map by at most `margin` metres."""
    g = torch.Generator().manual_seed(seed)
    extent = torch.tensor([SIZE[1], SIZE[0]], dtype=torch.float64) * WHERE["cell_size"]
    r = torch.rand(count, 5, generator=g, dtype=torch.float64)
    centre = r[:, :2] * (extent + 2 * margin) - margin + torch.tensor(WHERE["origin"])
    sides = r[:, 2:4] * torch.tensor([4.0, 2.0]) + torch.tensor([0.5, 0.3])
    return torch.cat([centre, sides, (2 * r[:, 4:] - 1) * math.pi], 1)


def problem(seed: int, channels: int = 3, count: int = 6, dtype=torch.float64, margin=0.5):
    """A batch of two maps, boxes on them, and which box lies on which map."""
    g = torch.Generator().manual_seed(seed)
    bev = torch.randn(2, channels, *SIZE, generator=g, dtype=torch.float64).to(dtype)
    index = torch.randint(2, (count,), generator=g)
    return bev, random_boxes(count, seed, margin).to(dtype), index


def boxes_in_pixels(seed: int, height: int = 9, width: int = 11, count: int = 4) -> Tensor:
    """Boxes of all sizes and directions, their centres up to 2 pixels off the map."""
    r = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scale = torch.tensor([width + 3.0, height + 3.0, 9.0, 5.0, 2 * math.pi])
    return r * scale - torch.tensor([2.0, 2.0, -0.2, -0.2, math.pi])


def official_positions(boxes: Tensor, grid=GRID) -> tuple[Tensor, Tensor]:
    """X, Y (N, A, B) in metres by the formula of the official code, in its angle `rotation_y`."""
    x, y, length, width, yaw = boxes.T[..., None, None]
    theta = -yaw - math.pi / 2
    theta = torch.remainder(theta + math.pi, 2 * math.pi) - math.pi
    a = torch.linspace(-0.5, 0.5, grid[0], dtype=boxes.dtype)[:, None]
    b = torch.linspace(-0.5, 0.5, grid[1], dtype=boxes.dtype)
    return (
        a * width * theta.cos() + b * length * theta.sin() + x,
        b * length * theta.cos() - a * width * theta.sin() + y,
    )


def away_from_kinks(boxes: Tensor, distance: float = 1e-3, grid=GRID) -> Tensor:
    """Move boxes until no sample lies within `distance` cells of a line through the nodes."""
    boxes = boxes.clone()
    for k in range(len(boxes)):
        for _ in range(10_000):
            cells = torch.stack(to_cells(*official_positions(boxes[k : k + 1], grid)))
            if ((cells - cells.round()).abs() > distance).all():
                break
            boxes[k] += torch.tensor([0.0123, 0.0071, 0.0037, 0.0053, 0.0029], dtype=boxes.dtype)
        else:
            raise RuntimeError("no box away from the kinks was found")
    return boxes


def closed_form(image: Tensor, box: Tensor, p: float, q: float):
    """Value (C,), gradient (C, 5) and Hessian (C, 5, 5) of one sample, written pixel by pixel."""
    x, y, length, width, yaw = box.tolist()
    c, s, cell = math.cos(yaw), math.sin(yaw), WHERE["cell_size"]
    dx, dy = p * length * c - q * width * s, p * length * s + q * width * c
    (j, a), (i, b) = ((math.floor(t), t - math.floor(t)) for t in to_cells(x + dx, y + dy))
    _, rows, columns = image.shape

    def pixel(row: int, column: int) -> Tensor:
        inside = 0 <= row < rows and 0 <= column < columns
        return image[:, row, column] if inside else torch.zeros_like(image[:, 0, 0])

    f00, f10, f01, f11 = pixel(i, j), pixel(i, j + 1), pixel(i + 1, j), pixel(i + 1, j + 1)
    value = (1 - a) * (1 - b) * f00 + a * (1 - b) * f10 + (1 - a) * b * f01 + a * b * f11
    su, sv = (1 - b) * (f10 - f00) + b * (f11 - f01), (1 - a) * (f01 - f00) + a * (f11 - f10)
    suv = f00 - f10 - f01 + f11
    by_x, by_y = [1, 0, p * c, -q * s, -dy], [0, 1, p * s, q * c, dx]
    second_x, second_y = torch.zeros(2, 5, 5, dtype=image.dtype)
    for k, m, xx, yy in ((4, 4, -dx, -dy), (2, 4, -p * s, p * c), (3, 4, -q * c, -q * s)):
        second_x[k, m] = second_x[m, k] = xx
        second_y[k, m] = second_y[m, k] = yy
    gradient = torch.stack([(su * by_x[k] + sv * by_y[k]) / cell for k in range(5)], -1)
    hessian = torch.stack(
        [
            suv * (by_x[k] * by_y[m] + by_x[m] * by_y[k]) / cell**2
            + (su * second_x[k, m] + sv * second_y[k, m]) / cell
            for k in range(5)
            for m in range(5)
        ],
        -1,
    )
    return value, gradient, hessian.unflatten(-1, (5, 5))
