"""The classes of a data set against those of the annotations, when a metric is told of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

__all__ = ["ClassCheck"]


class ClassCheck:
    """Mixin of a metric: ``check_classes`` is called when the data set becomes known.

    mmengine's loops hand ``dataset_meta`` to the evaluator when they are built, before training
    and before any image is looked at; a class that the annotations do not have is an error there,
    and not after the evaluation.
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
        # Of several data sets, which one belongs to this metric is not known yet.
        if errors and len(errors) == (len(meta) if several else 1):
            raise errors[0]
        self._dataset_meta = meta
