"""mmdet's visualizer with an error bar across every side of a detected box."""

from __future__ import annotations

import numpy as np
import torch
from mmdet.registry import VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

__all__ = ["UncertaintyVisualizer", "side_bars", "uncertainty_of"]


def uncertainty_of(instances: InstanceData) -> np.ndarray | None:
    """What bars show: ``side_interval`` (n, 4, 2), else ``side_std`` (n, 4), else None."""
    for name in ("side_interval", "side_std"):
        if name in instances:
            return torch.as_tensor(getattr(instances, name)).detach().cpu().double().numpy()
    return None


def side_bars(
    boxes: np.ndarray, uncertainty: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Error bars at the middle of each side.

    Args:
        boxes: (n, 4) ``(x1, y1, x2, y2)`` in pixels.
        uncertainty: (n, 4) standard deviations of x1, y1, x2, y2 in pixels, for bars of plus and
            minus one of them; or the lower and upper ends of the bars, (n, 4, 2).
        shape: (height, width) of the image; bars end at its border.

    Returns:
        x and y of the ends, (4 n, 2) each: x1, y1, x2, y2 of the first box, then of the next.
    """
    ends = uncertainty
    if uncertainty.ndim == 2:
        ends = boxes[:, :, None] + uncertainty[:, :, None] * np.array([-1.0, 1.0])
    middle = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    x, y = (np.tile(middle[:, axis, None, None], (1, 4, 2)) for axis in (0, 1))
    x[:, 0::2], y[:, 1::2] = ends[:, 0::2], ends[:, 1::2]
    x, y = x.clip(0, shape[1] - 1), y.clip(0, shape[0] - 1)
    return x.reshape(-1, 2), y.reshape(-1, 2)


@VISUALIZERS.register_module()
class UncertaintyVisualizer(DetLocalVisualizer):
    """mmdet's visualizer; detections with an uncertainty get an error bar across every side.

    It is the calibrated ``side_interval`` (n, 4, 2), else plus and minus one ``side_std`` (n, 4).

    In a config with ``custom_imports = dict(imports=['ebm_mmdet'])``:
    ``visualizer = dict(type='UncertaintyVisualizer')``.

    Args:
        name: mmengine's.
        bar_color: colour of the bars, in matplotlib's notation.
        kwargs: those of ``DetLocalVisualizer``.
    """

    # mmengine requires `name` in the signature.
    def __init__(
        self, name: str = "visualizer", *args, bar_color: str = "#56B4E9", **kwargs
    ) -> None:
        super().__init__(name, *args, **kwargs)
        self.bar_color = bar_color

    def _draw_instances(
        self,
        image: np.ndarray,
        instances: InstanceData,
        classes: list[str] | None,
        palette: list[tuple] | None,
    ) -> np.ndarray:
        drawn = super()._draw_instances(image, instances, classes, palette)
        uncertainty = uncertainty_of(instances)
        if len(instances) == 0 or uncertainty is None:
            return drawn
        self.set_image(drawn)
        boxes = instances.bboxes.detach().cpu().double().numpy()
        x, y = side_bars(boxes, uncertainty, image.shape[:2])
        self.draw_lines(
            torch.from_numpy(x),
            torch.from_numpy(y),
            colors=self.bar_color,
            line_widths=max(0.6 * self.line_width, 1),
        )
        return self.get_image()
