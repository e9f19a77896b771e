"""The images of one call of an inferencer, and what is known about each."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .coco_results import CocoIds, coco_dataset, coco_results
from .image_list import Image, image_digest, image_name, unique_stems
from .prediction_folder import PredictionFolder

__all__ = ["InferenceRun"]


class InferenceRun:
    """Keeps images and results of one call apart by a stem, the name of their files.

    Args:
        images: all images of the call.
    """

    def __init__(self, images: Sequence[Image]) -> None:
        self.stems = unique_stems(images)
        self.remaining = list(enumerate(images))
        """Number and image of those that are not done."""
        self.expected: deque[tuple[str, dict]] = deque()
        """Stem and record (``file``, ``width``, ``height``, ``digest``) of those that are read and
        not yet predicted, in order."""
        self.records: dict[str, dict] = {}
        """The records of those that are done, by stem, with ``found``, JSON types."""
        self.failed: dict[str, str] = {}
        """Reason by name of the image."""
        self.folder: PredictionFolder | None = None

    def open(self, out_dir: str, settings: dict, only_whole: bool) -> None:
        """Open a folder for the results, and leave out what an interrupted call has done.

        An image whose content is another one now is done again.

        Args:
            out_dir: the folder.
            settings: what the results depend on, besides the images.
            only_whole: whether the caller wants what the files of results do not have.

        Raises:
            FileExistsError: the folder has other content, or, if ``only_whole``, any.
            NotADirectoryError, PermissionError: it cannot be made or written.
        """
        names = [image_name(image, number) for number, image in self.remaining]
        self.folder = PredictionFolder(out_dir, dict(settings, images=names))
        if self.folder.resumed and only_whole:
            raise FileExistsError(
                f"{out_dir} has results of an interrupted call, which cannot go on with "
                "return_datasamples or return_vis; leave these out, or empty the folder"
            )
        for number, image in self.remaining:
            record = self.folder.done(self.stems[number])
            # Records of earlier versions have no digest, and are not used.
            if record is not None and record.get("digest", "") == _digest(image):
                self.records[self.stems[number]] = record
        self.remaining = [
            (number, image)
            for number, image in self.remaining
            if self.stems[number] not in self.records
        ]

    def names(self) -> list[tuple[str, str, Image]]:
        """Stem and name of each remaining image, and the image as the caller gave it."""
        return [
            (self.stems[number], image_name(image, number), image)
            for number, image in self.remaining
        ]

    def take(self, number: int) -> list[tuple[str, dict]]:
        """The next of ``expected``, which are no longer expected then."""
        return [self.expected.popleft() for _ in range(number)]

    def finish(self, classes: Sequence[str], ids: CocoIds | None) -> list[dict]:
        """Write the COCO file of all results; returns these, in the order of the images.

        Where images have failed, the same call later does these alone, and writes it again.

        Args:
            classes: names of the detector's classes.
            ids: ids of images and categories, if they are those of an annotation file.
        """
        records = [self.records[stem] for stem in self.stems if stem in self.records]
        rows, complete = [record["found"] for record in records], not self.failed
        if ids is None:
            files = [(each["file"], each["width"], each["height"]) for each in records]
            self.folder.finish("coco.json", coco_dataset(rows, files, classes), complete)
        else:
            image_ids = [ids.image(each["file"]) for each in records]
            results = coco_results(rows, image_ids, ids.categories)
            self.folder.finish("results.bbox.json", results, complete)
        return rows


def _digest(image: Image) -> str | None:
    """That of an image as it is now; None if it cannot be read, as predicting it will say."""
    try:
        return image_digest(image)
    except Exception:  # whatever the reader of a URL raises
        return None
