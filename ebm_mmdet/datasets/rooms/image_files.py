"""Pictures of generated rooms behind the paths that the data set gives its images.

mmdet's visualization reads an image again from its ``img_path``. That of a room names the settings
it is a function of, and this reads it by making the room again.
"""

from __future__ import annotations

import dataclasses
import json
from urllib.parse import parse_qsl, urlencode

import cv2
from mmengine.fileio import BaseStorageBackend, register_backend

from .scenes import RoomOptions, render_room

__all__ = ["RoomsBackend", "room_path"]

_PREFIX = "rooms"


def room_path(seed: int, index: int, options: RoomOptions) -> str:
    """The path of a room's picture, ``rooms://<seed, options that are not defaults>/<index>.png``.

    Its last part can be the name of a file.
    """
    settings = {"seed": seed}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default:
            settings[field.name] = json.dumps(value)
    return f"{_PREFIX}://{urlencode(settings)}/{index:06d}.png"


class RoomsBackend(BaseStorageBackend):
    """Files behind paths of `room_path`, for `mmengine.fileio`; nothing can be written."""

    def get(self, filepath: str) -> bytes:
        """The picture as the content of a PNG file.

        Raises:
            ValueError: the path is not one of `room_path`.
        """
        prefix, _, rest = str(filepath).partition("://")
        query, _, name = rest.partition("/")
        try:
            settings = dict(parse_qsl(query, strict_parsing=True))
            seed, index = int(settings.pop("seed")), int(name.removesuffix(".png"))
            values = {key: json.loads(value) for key, value in settings.items()}
            if prefix != _PREFIX:
                raise ValueError(f"starts with {prefix!r}")
            options = RoomOptions.from_config(values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{filepath!r} is not the path of a generated room ({error}); expected "
                f"{room_path(0, 0, RoomOptions())!r} or the like"
            ) from error
        picture = render_room(seed, index, options).image
        return cv2.imencode(".png", picture)[1].tobytes()

    def get_text(self, filepath: str, encoding: str = "utf-8") -> str:
        """Raise ``ValueError``: a picture is not text."""
        raise ValueError(f"{filepath!r} is a picture and has no text")


register_backend(_PREFIX, RoomsBackend, force=True, prefixes=_PREFIX)
