"""The base class of energy heads that may have a regression beside f."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .box_log_density import BoxLogDensity
from .box_regression import BoxRegression, RegressingBoxLogDensity, TrainingBoxLogDensity
from .energy_head import EnergyHead

__all__ = ["RegressingHead"]


class RegressingHead(EnergyHead):
    """An energy head with, if so configured, a second output of its trunk: where the object is.

    A subclass calls :meth:`build_regression` after :meth:`~.EnergyHead.build_trunk`.
    """

    # Of the class: heads that were pickled before have no such attribute.
    regresses = False
    regression_type: type[BoxRegression] = BoxRegression
    """The regression for the boxes of the head."""

    def build_regression(self, settings: dict | None) -> None:
        """Make the output; ``settings`` are arguments of :attr:`regression_type`, None for none."""
        self.regresses = settings is not None
        if self.regresses:
            width, outputs = self.fc_energy.in_features, self.fc_energy.out_features
            self.regression = self.regression_type(width, outputs, self.objective, **settings)

    @property
    def log_density_type(self) -> type[BoxLogDensity]:
        """With a regression, a log-density that also has ``regress``."""
        return RegressingBoxLogDensity if self.regresses else super().log_density_type

    def regress(
        self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evaluate f and where the regression says that the objects are, in one pass of the trunk.

        Args:
            feats: what :meth:`~.EnergyHead.prepare` returned.
            boxes: (N, S, D).
            batch_index: (N,) int64.
            labels: (N,) int64.

        Returns:
            f (N, S) of :meth:`~.EnergyHead.evaluate`, and the objects' offsets (N, S, D) from the
            boxes; zeros where a box is not finite.
        """
        layers = [self.fc_energy, self.regression]
        (energies, found), broken = self.outputs(layers, feats, boxes, batch_index)
        f = self.of_class(energies, labels).masked_fill(broken, float("-inf"))
        return f, self.of_class(found, labels).masked_fill(broken.unsqueeze(-1), 0)

    def training_problem(
        self, feats: Sequence[Tensor], gt_boxes: Tensor, batch_index: Tensor, labels: Tensor
    ) -> tuple[BoxLogDensity, Tensor]:
        """See :meth:`.EnergyHead.training_problem`; with a regression, f notes what it says."""
        fn, targets = super().training_problem(feats, gt_boxes, batch_index, labels)
        if self.regresses:
            fn = TrainingBoxLogDensity(self, fn.feats, fn.reference, fn.batch_index, fn.labels)
            fn.seen = []
        return fn, targets

    def further_losses(
        self, fn: BoxLogDensity, avg_factor: float | Tensor | None
    ) -> dict[str, Tensor]:
        """``loss_regression``, if there is one."""
        if not isinstance(fn, TrainingBoxLogDensity):
            return {}
        if avg_factor is None:
            avg_factor = len(fn.reference)
        parts = [self.regression.loss(*each, avg_factor=avg_factor) for each in fn.seen]
        return {"loss_regression": torch.stack(parts).sum()}
