"""A folder with the predictions of a detector, which goes on after an interruption."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mmdet.structures import DetDataSample
from PIL import Image

from ..files import differing_keys, open_atomic, read_json, write_bytes, write_json, write_text
from ..visualization.auxiliary_maps import depth_to_grey, normals_to_rgb
from .fitting.folder import writable_place

__all__ = ["PredictionFolder"]

UNFINISHED = "unfinished"
"""Folder inside it with what is known about each image, until all are done."""


class PredictionFolder:
    """Writes the predictions of one run; every file completely or not at all.

    For the image ``NAME`` of a model that predicts them, at the model's resolution:

    - ``scene/NAME.txt``: one line for each scene type, with the most probable first:
      its probability and its name;
    - ``depth/NAME.npy``: (h, w) float32 in metres, and ``depth/NAME.png``, grey, near white;
    - ``normals/NAME.npy``: (3, h, w) float32, and ``normals/NAME.png``, 255 (n + 1) / 2 as RGB.

    Nothing is written before :meth:`claim` or the first :meth:`write`, so that a call that fails
    at once leaves the folder to another.

    Args:
        folder: new or empty, or that of a run with the same settings that was interrupted or left
            images out.
        settings: all that the predictions depend on besides the images' content; JSON types.

    Raises:
        FileExistsError: the folder has other content; nothing was changed.
        NotADirectoryError, PermissionError: it cannot be made or written.
    """

    def __init__(self, folder: str | Path, settings: dict) -> None:
        self.folder = Path(folder)
        self._records = self.folder / UNFINISHED
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"{folder} is a file; give a new folder")
        self.resumed = self.folder.exists() and any(self.folder.iterdir())
        """Whether results of an interrupted run may be there."""
        stored = read_json(self._records / "settings.json") if self.resumed else settings
        if stored != settings:
            what = ""
            if stored is not None:
                changed = ", ".join(differing_keys(stored, settings))
                what = f", and its interrupted run had another {changed}"
            raise FileExistsError(
                f"{folder} is not empty{what}; give a new folder, or empty this one"
            )
        writable_place(self.folder)
        self._settings = None if self.resumed else settings

    def claim(self) -> None:
        """Keep the folder for this run, and for none with other settings."""
        if self._settings is not None:
            write_json(self._records / "settings.json", self._settings)
            self._settings = None

    def done(self, name: str) -> dict | None:
        """The record of an image whose results are complete, or None."""
        return read_json(self._records / "images" / f"{name}.json")

    def write(self, name: str, sample: DetDataSample, dataset_meta: Mapping, record: dict) -> None:
        """Write scene, depth and normals of an image, then its record.

        Args:
            name: of the files, without ending.
            sample: the prediction.
            dataset_meta: of the model, for its ``scene_types``.
            record: what :meth:`done` returns from now on; JSON types.
        """
        self.claim()
        sample = sample.cpu()
        if "pred_scene" in sample:
            text = _scene_list(sample, dataset_meta.get("scene_types") or ())
            write_text(self.folder / "scene" / f"{name}.txt", text)
        if "pred_depth" in sample:
            depth = sample.pred_depth.depth[0].float().numpy()
            self._save("depth", name, depth, depth_to_grey(depth))
        if "pred_normals" in sample:
            normals = sample.pred_normals.normals.float().numpy()
            self._save("normals", name, normals, normals_to_rgb(normals))
        write_json(self._records / "images" / f"{name}.json", record)

    def finish(self, name: str, content: object, complete: bool = True) -> None:
        """Write the file with the results of all images, and remove the records.

        Args:
            name: of the file.
            content: of the file; JSON types.
            complete: if not, the records stay, and a run with the same settings goes on from them.
        """
        self.claim()
        write_json(self.folder / name, content)
        if complete:
            shutil.rmtree(self._records)

    def _save(self, kind: str, name: str, values: np.ndarray, picture: np.ndarray) -> None:
        with open_atomic(self.folder / kind / f"{name}.npy") as file:
            np.save(file, values.astype(np.float32))
        content = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(content, "PNG")
        write_bytes(self.folder / kind / f"{name}.png", content.getvalue())


def _scene_list(sample: DetDataSample, names: Sequence[str]) -> str:
    lines = []
    for index in sample.pred_scene.ranking.tolist():
        name = names[index] if index < len(names) else f"scene {index}"
        lines.append(f"{float(sample.pred_scene.scores[index]):.4f} {name}\n")
    return "".join(lines)
