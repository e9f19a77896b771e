"""A visualizer that shows scene, depth and normals beside the boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mmcv
import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.dist import master_only

from .auxiliary_maps import depth_to_colour, enlarge, normals_to_rgb
from .uncertainty import UncertaintyVisualizer

__all__ = ["MultiTaskVisualizer"]

TASKS = ("depth", "normals")


@VISUALIZERS.register_module()
class MultiTaskVisualizer(UncertaintyVisualizer):
    """:class:`UncertaintyVisualizer` with depth and normals beside the boxes, and the scene above.

    The picture has one row of panels for the truth and one for the prediction: boxes, depth and
    normals. A column appears if the truth or the prediction has its content; where only one has
    it, the other panel is grey. Depth is bright near and dark far, with one range for both rows,
    which is written on the panel. Maps are enlarged without smoothing, so that their resolution is
    seen. A data sample without any of these is drawn as :class:`UncertaintyVisualizer` draws it.

    Read from the data sample, if present: ``pred_scene.scores`` (S,), ``gt_scene.label`` (1,),
    ``{gt,pred}_depth.depth`` (1, h, w) in metres, ``{gt,pred}_normals.normals`` (3, h, w),
    ``gt_normals.mask`` (1, h, w); and the names ``dataset_meta['scene_types']``.

    In a config with ``custom_imports = dict(imports=['ebm_mmdet'])``:
    ``visualizer = dict(type='MultiTaskVisualizer')``.

    Args:
        name: mmengine's.
        scenes_shown: number of scene types that are listed, the most probable first.
        kwargs: those of ``UncertaintyVisualizer``.
    """

    # mmengine requires `name` in the signature.
    def __init__(self, name: str = "visualizer", *args, scenes_shown: int = 3, **kwargs) -> None:
        super().__init__(name, *args, **kwargs)
        self.scenes_shown = scenes_shown

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: DetDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        pred_score_thr: float = 0.3,
        step: int = 0,
    ) -> None:
        """Draw a data sample; show it, write it to a file, or give it to all backends.

        Args:
            name: of the image.
            image: (H, W, 3) RGB.
            data_sample: see the class.
            draw_gt: draw the row of the truth.
            draw_pred: draw the row of the prediction.
            show: show a window, and give nothing to the backends.
            wait_time: seconds for which the window is shown; 0 means until a key is pressed.
            out_file: file to write instead of giving the picture to the backends.
            pred_score_thr: smallest score of a detection that is drawn.
            step: training step, for the backends.
        """
        sample = None if data_sample is None else data_sample.cpu()
        sources = [
            s
            for s, wanted in (("gt", draw_gt), ("pred", draw_pred))
            if wanted and sample is not None
        ]
        columns = [t for t in TASKS if any(f"{source}_{t}" in sample for source in sources)]
        scenes = any(f"{source}_scene" in sample for source in sources)
        if not columns and not scenes:
            super().add_datasample(
                name,
                image,
                data_sample,
                draw_gt,
                draw_pred,
                show,
                wait_time,
                out_file,
                pred_score_thr,
                step,
            )
            return
        limit = _largest_depth(sample, sources)
        rows = []
        for source in sources:
            with self._no_output():
                super().add_datasample(
                    name,
                    image,
                    sample,
                    draw_gt=source == "gt",
                    draw_pred=source == "pred",
                    pred_score_thr=pred_score_thr,
                )
            panels = [self._with_text(self.get_image(), self._scene_text(sample, source))]
            for task in columns:
                panels.append(self._panel(sample, source, task, image.shape[:2], limit))
            rows.append(np.concatenate(panels, axis=1))
        drawn = np.concatenate(rows, axis=0)
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(drawn[..., ::-1], out_file)
        else:
            self.add_image(name, drawn, step)

    def _panel(
        self,
        sample: DetDataSample,
        source: str,
        task: str,
        shape: tuple[int, int],
        limit: float | None,
    ) -> np.ndarray:
        """Panel (H, W, 3) RGB of a map; grey if there is none."""
        maps = sample.get(f"{source}_{task}")
        title = {"gt": "true", "pred": "predicted"}[source] + f" {task}"
        if maps is None:
            picture = np.full((*shape, 3), 128, np.uint8)
            return self._with_text(picture, f"no {title}")
        if task == "depth":
            picture = depth_to_colour(maps.depth[0].float().numpy(), limit)
            title += f", 0 to {limit or 0:.1f} m"
        else:
            mask = maps.mask[0].numpy() if "mask" in maps else None
            picture = normals_to_rgb(maps.normals.float().numpy(), mask)
        return self._with_text(enlarge(picture, shape), title)

    def _scene_text(self, sample: DetDataSample, source: str) -> str:
        scene = sample.get(f"{source}_scene")
        if scene is None:
            return ""
        names: Sequence[str] = self.dataset_meta.get("scene_types") or ()

        def name(index: int) -> str:
            return names[index] if index < len(names) else f"scene {index}"

        if source == "gt":
            return f"true: {name(int(scene.label))}"
        scores = scene.scores.float()
        best = scores.argsort(descending=True)[: self.scenes_shown].tolist()
        return "\n".join(f"{name(index)} {100 * float(scores[index]):.0f} %" for index in best)

    def _with_text(self, picture: np.ndarray, text: str) -> np.ndarray:
        """The picture with a text in its upper left corner."""
        if not text:
            return picture
        self.set_image(picture)
        size = max(7, min(picture.shape[:2]) // 32)
        box = dict(facecolor="black", alpha=0.7, pad=2, edgecolor="none")
        self.draw_texts(text, np.array([3, 3]), font_sizes=size, colors="white", bboxes=box)
        return self.get_image()

    @contextmanager
    def _no_output(self) -> Iterator[None]:
        """Context in which mmdet's drawing reaches neither backends nor files."""
        backends, self._vis_backends = self._vis_backends, {}
        try:
            yield
        finally:
            self._vis_backends = backends


def _largest_depth(sample: DetDataSample, sources: Sequence[str]) -> float | None:
    """Largest known depth of the sources, None without one."""
    known = []
    for source in sources:
        if f"{source}_depth" in sample:
            depth = sample.get(f"{source}_depth").depth.float()
            known += depth[depth.isfinite() & (depth > 0)].tolist()
    return max(known, default=None)
