"""The classes of NYUv2 on which detectors of indoor scenes are compared."""

__all__ = ["CLASSES"]

CLASSES = (
    "bathtub",
    "bed",
    "bookshelf",
    "box",
    "chair",
    "counter",
    "desk",
    "door",
    "dresser",
    "garbage bin",
    "lamp",
    "monitor",
    "night stand",
    "pillow",
    "sink",
    "sofa",
    "table",
    "television",
    "toilet",
)
"""19 names as NYUv2 spells them; category ids in annotation files are 1 to 19 in this order."""
