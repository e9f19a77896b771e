"""The one table of tolerances; it lies with the tests of the operators, which stand alone."""

from tolerances import TOLERANCE

__all__ = ["TOLERANCE"]
