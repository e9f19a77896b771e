"""What a file gives beside what ``predict`` gives, box by box, and what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .graph_files import largest_differences

__all__ = ["Comparison"]


class Comparison:
    """Outputs of a file beside those that are right, of one input after another.

    Args:
        names: of the outputs, with ``boxes``; with ``number`` where rows may be empty.

    Attributes:
        worst: name -> the largest difference in rows that both have; of ``number``, how many boxes
            more or fewer the file has than its rows can hold of the right ones.
        moved: for each box that both have, its largest difference of a side in pixels.
        beyond: scores (n,) of each input's right boxes for which the file has no row left, by
            descending scores.
        rows: of the file.
        missing: boxes that the file lacks though it has rows left.
        added: boxes of the file that should not be there.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.worst = dict.fromkeys(self.names, 0.0)
        self.moved: list[float] = []
        self.beyond: list[Tensor] = []
        self.rows = self.missing = self.added = 0

    def add(self, found: Sequence[Tensor], right: Sequence[Tensor]) -> None:
        """Compare the outputs for one input.

        Args:
            found: what the file gives, a tensor for each name, with K rows.
            right: what it should give, with K rows or more (``DetectorGraph.predicted``).
        """
        found, right = ([each.detach().cpu() for each in outputs] for outputs in (found, right))
        rows = self.rows = len(found[self.names.index("boxes")])
        if "number" in self.names:
            number = self.names.index("number")
            here, all_of_them = int(found[number]), int(right[number])
            wanted = min(all_of_them, rows)
            self.beyond.append(right[self.names.index("scores")][rows:all_of_them])
            self.missing += max(wanted - here, 0)
            self.added += max(here - wanted, 0)
            right[number] = torch.tensor(wanted)
            # Empty rows are compared as well, unless a box of one is beside a row of the other.
            rows = rows if here == wanted else min(here, wanted)
        found, right = ([each[:rows] if each.dim() else each for each in x] for x in (found, right))
        for name, apart in largest_differences(self.names, found, right).items():
            self.worst[name] = max(apart, self.worst[name])
        boxes, expected = (each[self.names.index("boxes")] for each in (found, right))
        filled = (expected != 0).any(-1)
        self.moved += (boxes - expected).abs().amax(-1)[filled].tolist()

    def beyond_with(self, score: float) -> list[int]:
        """How many boxes :attr:`beyond` have this score or more, of each input."""
        return [int((scores >= score).sum()) for scores in self.beyond]
