"""Boxes of two images for the tests of CUDA graphs: usual ones, and some that leave their image."""

from __future__ import annotations

import torch

BOXES = torch.tensor(
    [
        [3.3, 4.1, 21.7, 17.2],
        [10.2, 2.2, 57.9, 40.4],
        [-6.0, -9.5, 9.0, 8.0],
        [30.1, 20.3, 44.0, 33.3],
        [25.0, 9.0, 33.2, 12.9],
    ]
)
IMAGES, LABELS = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 1, 2, 2, 1])
