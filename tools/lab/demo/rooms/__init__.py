"""`make demo-rooms`: SSD, flat multi-task learning and ROCK on generated rooms."""

from .run import run_rooms_demo

__all__ = ["run_rooms_demo"]
