"""The visualizer of image regression, and the hook that calls it in validation and testing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmdet.registry import HOOKS, VISUALIZERS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from .pictures import draw_prediction

__all__ = ["RegressionVisualizationHook", "RegressionVisualizer"]


@VISUALIZERS.register_module()
class RegressionVisualizer(Visualizer):
    """Draws an image beside p(y | x), with truth, mean and mode.

    For targets in R the density is a curve; for several coordinates there are the marginals, and a
    map of the first two. The data set's ``target`` metainfo gives names, units and ranges.

    Args:
        name: mmengine's.
        whole_range: for D = 1, show the whole declared range, not only where the density is.
        dpi: pixels per inch of the pictures.
        kwargs: those of ``mmengine.visualization.Visualizer``.
    """

    # mmengine requires `name` in the signature.
    def __init__(
        self,
        name: str = "visualizer",
        *args,
        whole_range: bool = False,
        dpi: int = 110,
        **kwargs,
    ) -> None:
        super().__init__(name, *args, **kwargs)
        self.whole_range, self.dpi = whole_range, dpi

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: BaseDataElement | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
    ) -> np.ndarray:
        """Draw a data sample, and show it, write it to a file, or pass it to the backends.

        Args:
            name: name of the picture, or title of the window.
            image: (H, W, 3) uint8 RGB.
            data_sample: a ``RegressionDataSample``; without one, the image alone is drawn.
            draw_gt: draw the label.
            draw_pred: draw the prediction.
            show: show the picture in a window.
            wait_time: seconds for which it is shown; 0 waits for a key.
            out_file: file to write instead of the backends.
            step: training step, for the backends.

        Returns:
            (h, w, 3) uint8 RGB, the picture.
        """
        fields = {} if data_sample is None else data_sample.to_dict()
        hidden = () if draw_gt else ("gt_", "oracle_")
        hidden += () if draw_pred else ("pred_",)
        fields = {key: value for key, value in fields.items() if not key.startswith(hidden)}
        drawn = image
        if any(fields.get(key) is not None for key in ("gt_target", "pred_target")):
            drawn = self._draw(image, fields)
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(drawn[..., ::-1], out_file)
        elif not show:
            self.add_image(name, drawn, step)
        return drawn

    def _draw(self, image: np.ndarray, fields: dict) -> np.ndarray:
        meta = (self.dataset_meta or {}).get("target")
        figure = draw_prediction(image, fields, meta, whole_range=self.whole_range)
        figure.set_dpi(self.dpi)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


@HOOKS.register_module()
class RegressionVisualizationHook(Hook):
    """Draws predictions in validation and testing, as mmdet's ``DetVisualizationHook`` does.

    The image is the network's input, because generated images have no file. ``tools/test.py
    --show-dir DIR`` writes one picture per image, up to ``max_pictures``, into DIR below the folder
    of the run, named after the image and its number in the data set.

    Args:
        draw: draw at all; set by ``--show`` and ``--show-dir``.
        interval: in validation, draw the first image of every ``interval``-th batch.
        show: show pictures in a window.
        wait_time: seconds for which each is shown.
        test_out_dir: folder for the pictures of a test.
        max_pictures: number of pictures after which a test draws no more, and says so once.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        show: bool = False,
        wait_time: float = 0.0,
        test_out_dir: str | None = None,
        max_pictures: int = 200,
    ) -> None:
        self.draw, self.interval, self.show = draw, interval, show
        self.wait_time, self.test_out_dir = wait_time, test_out_dir
        self.max_pictures, self._drawn, self._told = max_pictures, 0, False

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw the first image of a batch, if it is the batch's turn."""
        if self.draw and outputs and batch_idx % self.interval == 0:
            self._add(runner, data_batch, outputs, 0, "val_img", None, runner.iter + batch_idx)

    def before_test(self, runner: Runner) -> None:
        """Start counting pictures."""
        self._drawn, self._told = 0, False

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw all images of a batch."""
        if not self.draw:
            return
        for i, sample in enumerate(outputs or ()):
            if self._drawn >= self.max_pictures:
                if not self._told:
                    print_log(
                        f"{self._drawn} pictures are drawn, and the other images of this test get "
                        "none: default_hooks.visualization.max_pictures sets their number",
                        "current",
                    )
                self._told = True
                return
            out_file = None
            if self.test_out_dir is not None:
                folder = Path(runner.work_dir, runner.timestamp, self.test_out_dir)
                stem = Path(str(sample.get("img_path") or "image")).stem
                # Its number in the set, which two processes do not share, as they do their counts.
                number = sample.get("sample_idx", self._drawn)
                out_file = str(folder / f"{number:04d}_{stem}.png")
            self._add(runner, data_batch, outputs, i, "test_img", out_file, self._drawn)
            self._drawn += 1

    def _add(self, runner, data_batch, outputs, i: int, name: str, out_file, step: int) -> None:
        image = data_batch["inputs"][i].detach().cpu().numpy().transpose(1, 2, 0)
        runner.visualizer.add_datasample(
            name,
            np.ascontiguousarray(image[..., ::-1].astype(np.uint8)),  # BGR, as it was loaded
            data_sample=outputs[i],
            show=self.show,
            wait_time=self.wait_time,
            out_file=out_file,
            step=step,
        )
