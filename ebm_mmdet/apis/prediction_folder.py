"""A folder with the predictions of a detector: pictures, boxes, scene, depth and normals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from PIL import Image

from ..files import open_atomic, read_json, write_bytes, write_json, write_text
from ..visualization.auxiliary_maps import depth_to_grey, normals_to_rgb

__all__ = ["FolderError", "PredictionFolder", "find_images"]

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
SETTINGS = "settings.json"


class FolderError(ValueError):
    """Images that cannot be read, or a folder that has other content; nothing was changed."""


def find_images(source: str | Path) -> list[Path]:
    """The image files of a folder in the order of their names, or the one file that is given.

    Raises:
        FolderError: there is no such file or folder, a folder has no image, a file is not an image,
            or two files differ only in their ending, so that their results would have one name.
    """
    source = Path(source)
    if source.is_dir():
        paths = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
        if not paths:
            raise FolderError(
                f"{source} has no image; files with the endings {', '.join(IMAGE_ENDINGS)} are "
                "read, without those in folders below it"
            )
    elif source.is_file():
        paths = [source]
    else:
        raise FolderError(f"there is no image or folder {source}")
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise FolderError(
                f"{seen[path.stem]} and {path} differ only in their ending, so that their results "
                "would have one name; rename one of them"
            )
        seen[path.stem] = path
        try:
            with Image.open(path) as image:
                image.verify()
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
            raise FolderError(f"{path} is not a whole image: {error}") from error
    return paths


class PredictionFolder:
    """Writes the predictions of one run; every file completely or not at all.

    For the image ``NAME.jpg`` the folder gets

    - ``pictures/NAME.png``: boxes, and depth and normals beside them;
    - ``boxes/NAME.json``: for each detection ``bbox`` (x1, y1, x2, y2) in pixels of the image,
      ``score`` and ``label`` (name of the class), with the highest score first;
    - ``scene/NAME.txt``: one line for each scene type, with the most probable first:
      its probability and its name;
    - ``depth/NAME.npy``: (h, w) float32 in metres, and ``depth/NAME.png``, grey, near white;
    - ``normals/NAME.npy``: (3, h, w) float32, and ``normals/NAME.png``, 255 (n + 1) / 2 as RGB.

    Scene, depth and normals are there if the model predicts them, at the model's resolution.

    Args:
        folder: new or empty, or the folder of an interrupted run with the same settings, which
            then continues.
        settings: all that the predictions depend on; JSON types.
        dataset_meta: of the model: ``classes``, and optionally ``palette`` and ``scene_types``.
        score_thr: smallest score of a detection that is drawn and listed.

    Raises:
        FolderError: the folder has other content.
    """

    def __init__(
        self, folder: str | Path, settings: dict, dataset_meta: dict, score_thr: float
    ) -> None:
        self.folder, self.score_thr = Path(folder), score_thr
        if self.folder.exists() and not self.folder.is_dir():
            raise FolderError(f"{folder} is a file; give another folder")
        if self.folder.exists() and any(self.folder.iterdir()):
            if read_json(self.folder / SETTINGS) != settings:
                raise FolderError(
                    f"{folder} has other content, or results of other settings; give a new folder"
                )
        else:
            write_json(self.folder / SETTINGS, settings)
        self.meta = dataset_meta
        self.visualizer = VISUALIZERS.build(dict(type="MultiTaskVisualizer", name=str(folder)))
        self.visualizer.dataset_meta = dataset_meta

    def has(self, path: Path) -> bool:
        """Whether the results of an image are complete; its boxes are written last."""
        return (self.folder / "boxes" / f"{path.stem}.json").exists()

    def write(self, path: Path, sample: DetDataSample) -> None:
        """Write the results of an image.

        Args:
            path: the image.
            sample: the prediction, with boxes in pixels of the image file.
        """
        name, sample = path.stem, sample.cpu()
        if "pred_scene" in sample:
            write_text(self.folder / "scene" / f"{name}.txt", self._scene_list(sample))
        if "pred_depth" in sample:
            depth = sample.pred_depth.depth[0].float().numpy()
            self._save("depth", name, depth, depth_to_grey(depth))
        if "pred_normals" in sample:
            normals = sample.pred_normals.normals.float().numpy()
            self._save("normals", name, normals, normals_to_rgb(normals))
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise FolderError(f"{path} cannot be read as an image any more")
        # mmdet cannot draw a label without a name.
        found = sample.pred_instances
        found.label_names = [self._class(label) for label in found.labels.tolist()]
        self.visualizer.add_datasample(
            name, picture[..., ::-1], sample, draw_gt=False, pred_score_thr=self.score_thr
        )
        self._write_png("pictures", name, self.visualizer.get_image())
        write_json(self.folder / "boxes" / f"{name}.json", self._boxes(sample))

    def _boxes(self, sample: DetDataSample) -> list[dict]:
        found = sample.pred_instances
        found = found[found.scores > self.score_thr]
        found = found[found.scores.argsort(descending=True)]
        return [
            dict(bbox=[round(x, 2) for x in box], score=round(score, 4), label=self._class(label))
            for box, score, label in zip(
                found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist()
            )
        ]

    def _class(self, label: int) -> str:
        classes: Sequence[str] = self.meta.get("classes") or ()
        return classes[label] if label < len(classes) else f"class {label}"

    def _scene_list(self, sample: DetDataSample) -> str:
        names: Sequence[str] = self.meta.get("scene_types") or ()
        lines = []
        for index in sample.pred_scene.ranking.tolist():
            name = names[index] if index < len(names) else f"scene {index}"
            lines.append(f"{float(sample.pred_scene.scores[index]):.4f} {name}\n")
        return "".join(lines)

    def _save(self, kind: str, name: str, values: np.ndarray, picture: np.ndarray) -> None:
        with open_atomic(self.folder / kind / f"{name}.npy") as file:
            np.save(file, values.astype(np.float32))
        self._write_png(kind, name, picture)

    def _write_png(self, kind: str, name: str, picture: np.ndarray) -> None:
        content = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(content, "PNG")
        write_bytes(self.folder / kind / f"{name}.png", content.getvalue())
