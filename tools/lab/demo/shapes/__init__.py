"""The demo's world of images: generated shapes, or a user's folder in COCO format."""

from .world import ShapesWorld

__all__ = ["ShapesWorld"]
