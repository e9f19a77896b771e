"""Compares the classes of a data set with those of a metric's annotations, before evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

__all__ = ["ClassCheck"]


class ClassCheck:
    """Mixin of a metric that calls ``check_classes`` when the data set becomes known.

    mmengine's loops set ``dataset_meta`` of the evaluator when they are built, before training and
    before any image is read. So a class that the annotations lack is an error at that time, and not
    only after the evaluation.
    """

    check_classes: Callable[[Sequence[str]], None]

    @property
    def dataset_meta(self) -> Mapping | Sequence[Mapping] | None:
        """The data set's ``metainfo``; of several data sets that differ, a list."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: Mapping | Sequence[Mapping] | None) -> None:
        several = isinstance(meta, (list, tuple))
        errors = []
        for one in meta if several else [meta]:
            if one and one.get("classes") is not None:
                try:
                    self.check_classes(one["classes"])
                except ValueError as error:
                    errors.append(error)
        # With several data sets it is not known yet which one belongs to this metric.
        if errors and len(errors) == (len(meta) if several else 1):
            raise errors[0]
        self._dataset_meta = meta
