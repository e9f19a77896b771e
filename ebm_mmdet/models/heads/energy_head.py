"""The base class of energy heads, which map pooled features to a scalar log-density f."""

from __future__ import annotations

import contextlib
import itertools
from abc import abstractmethod
from collections.abc import Sequence

import torch
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.model import BaseModule
from mmengine.registry import Registry
from torch import Tensor, nn

from ...energy import Objective
from ...energy.float32_linear import (
    Float32Linear,
    GradientPrecision,
    check_gradient_precision,
)
from ...energy.host_reads import records_graph
from ...energy.log_density import is_finite
from .base_arguments import full_signature, refuse_unknown
from .box_log_density import BoxLogDensity
from .objective_on_batch import objective_on_batch

__all__ = ["EnergyHead"]


class EnergyHead(BaseModule):
    r"""An energy head: ``f(x, y, c) = MLP(pool(x, y))_c`` for features x, a box y and a class c.

    This base has the MLP (a trunk of fully connected layers and one output per class, or one for
    all), the function of boxes that objectives and refiners take, and the training loss. A subclass
    defines what a box is and how it is pooled, by:

    - :attr:`dim`, the number of encoded coordinates, and :meth:`decode`;
    - :meth:`prepare`, which turns the detector's maps into those that :meth:`pool` reads;
    - :meth:`pool`, which turns boxes into features; ``__init__`` gives their number to
      :meth:`build_trunk`;
    - :meth:`is_trainable_box`, which selects the annotated boxes to train on.

    ``f`` is an unnormalised log-density of the box in encoded coordinates; it is defined up to a
    constant for each object. Every box has a value: a box with a coordinate that is not finite has
    ``f = -inf`` and no gradient.

    Weights in half precision (``model.half()``, ``model.bfloat16()``) are multiplied in float32,
    because refinement compares values of f whose differences half precision cannot resolve.

    A subclass has arguments of its own and hands the others on as ``**kwargs``;
    ``inspect.signature`` shows both.

    Args:
        num_classes: number of foreground classes.
        objective: how f is trained, config of a registered :class:`~ebm_mmdet.energy.Objective`.
        act_cfg: activation, ReLU by default. Score matching differentiates f twice with respect to
            the box, so it needs a smooth one (``dict(type='SiLU')``).
        class_agnostic: one output for all classes instead of one per class.
        min_box_size: smallest size of a box, in the unit of the boxes; see the subclass.
        loss_weight: factor on the loss.
        gradient_precision: of the products of the trunk's gradient to the box, in eval mode:
            ``'fp32'``, or ``'bf16'`` on processors that have such products
            (:class:`~ebm_mmdet.energy.float32_linear.Float32Linear`). f itself stays in float32, so
            that a climb keeps its promise: f never falls.
        init_cfg: mmengine's. Default: Kaiming-uniform trunk with biases 0, output N(0, 0.001).

    Raises:
        TypeError: there is no argument of this name.

    Source: Gustafsson et al., ECCV 2020 (arXiv:1909.12297).
    """

    dim: int
    """D, the number of encoded coordinates of a box."""
    task_utils: Registry = TASK_UTILS
    """The registry of objectives and noise distributions."""
    always_float32: bool = False
    """Whether autocast is switched off while f is evaluated."""

    def __init__(
        self,
        num_classes: int,
        objective: dict,
        act_cfg: dict | None = None,
        class_agnostic: bool = False,
        min_box_size: float = 1.0,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
        gradient_precision: GradientPrecision = "fp32",
        **unknown: object,
    ) -> None:
        refuse_unknown(type(self), unknown)
        super().__init__(init_cfg)
        self.gradient_precision = check_gradient_precision(gradient_precision)
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.min_box_size, self.loss_weight = float(min_box_size), loss_weight
        self.activation = MODELS.build(act_cfg or dict(type="ReLU", inplace=True))
        objective = dict(objective)
        if isinstance(objective.get("noise"), dict):
            objective["noise"] = self.task_utils.build(objective["noise"])
        self.objective: Objective = self.task_utils.build(objective)

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = full_signature(cls, EnergyHead)

    def build_trunk(self, in_features: int, fc_channels: Sequence[int]) -> None:
        """Make the trunk and the output layer for boxes with ``in_features`` pooled features."""
        widths = [in_features, *fc_channels]
        self.trunk = nn.ModuleList(Float32Linear(i, o) for i, o in itertools.pairwise(widths))
        self.fc_energy = Float32Linear(widths[-1], 1 if self.class_agnostic else self.num_classes)
        for layer in self.trunk:
            layer.gradient_precision = self.gradient_precision
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.fc_energy.weight, std=0.001)
        nn.init.zeros_(self.fc_energy.bias)

    @abstractmethod
    def prepare(self, maps: Sequence[Tensor], detach: bool = True, **kwargs) -> list[Tensor]:
        """Turn the detector's maps into those that :meth:`pool` reads; once per batch of images.

        Args:
            maps: feature maps (B, C, H, W) of the detector.
            detach: cut the graph to the detector (frozen features).
            **kwargs: further values with which the subclass checks the maps.

        Returns:
            Maps (B, C', H, W), float32, of the levels that are used.
        """

    @abstractmethod
    def decode(self, offsets: Tensor, reference: Tensor) -> Tensor:
        """Boxes at encoded offsets (..., D) from reference boxes (..., D)."""

    @abstractmethod
    def pool(self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor) -> Tensor:
        """Features of R boxes.

        Args:
            feats: what :meth:`prepare` returned.
            boxes: (R, D), finite.
            batch_index: (R,) image of each box, int64.

        Returns:
            (R, C) float32, as many features C as :meth:`build_trunk` was given.
        """

    def embed(self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor) -> Tensor:
        """Pool and apply the trunk: features (R, fc_channels[-1]); arguments of :meth:`pool`."""
        x = self.pool(feats, boxes, batch_index)
        for layer in self.trunk:
            x = self.activation(layer(x))
        return x

    @abstractmethod
    def is_trainable_box(self, boxes: Tensor) -> Tensor:
        """(N, D) annotated boxes -> (N,) bool: finite, and large enough to train on."""

    def log_density(
        self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor, labels: Tensor
    ) -> Tensor:
        """f(x, y, c) at S boxes for each of N objects.

        Args:
            feats: what :meth:`prepare` returned.
            boxes: (N, S, D) float, in the format of the subclass.
            batch_index: (N,) image of each object, int64.
            labels: (N,) class of each object, int64 in ``[0, num_classes)``.

        Returns:
            (N, S) float32, also under autocast; differentiable with respect to ``boxes``.

        Raises:
            ValueError: a label or a batch index is out of range.
        """
        self.check_targets(feats, batch_index, labels)
        return self.evaluate(feats, boxes, batch_index, labels)

    def evaluate(
        self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor, labels: Tensor
    ) -> Tensor:
        """:meth:`log_density` without :meth:`check_targets`, which reads from the device."""
        (energies,), broken = self.outputs([self.fc_energy], feats, boxes, batch_index)
        return self.of_class(energies, labels).masked_fill(broken, float("-inf"))

    def outputs(
        self,
        layers: Sequence[nn.Module],
        feats: Sequence[Tensor],
        boxes: Tensor,
        batch_index: Tensor,
    ) -> tuple[list[Tensor], Tensor]:
        """What output layers make of the trunk's features, at S boxes for each of N objects.

        Args:
            layers: each takes (R, fc_channels[-1]) to (R, ...).
            feats: what :meth:`prepare` returned.
            boxes: (N, S, D).
            batch_index: (N,) int64.

        Returns:
            (N, S, ...) float32 of each layer, and (N, S) bool: boxes that are not finite, whose
            values belong to a box without area.
        """
        num, samples = boxes.shape[:2]
        flat = boxes.float().reshape(num * samples, self.dim)
        broken = ~is_finite(flat).all(dim=1, keepdim=True)
        # Zeros replace boxes that are not finite: NaN times a zero gradient is NaN in weights.
        flat = flat.masked_fill(broken, 0)
        # Not repeat_interleave, which in older torch copies the number of repeats to the device.
        images = batch_index.unsqueeze(1).expand(num, samples).reshape(-1)
        with (
            torch.autocast(boxes.device.type, enabled=False)
            if self.always_float32
            else contextlib.nullcontext()
        ):
            x = self.embed(feats, flat, images)
            values = [layer(x).float().unflatten(0, (num, samples)) for layer in layers]
        return values, broken.view(num, samples)

    def of_class(self, values: Tensor, labels: Tensor) -> Tensor:
        """(N, S, K, ...) values of K classes -> (N, S, ...), those of ``labels`` (N,) int64."""
        if self.class_agnostic:
            return values[:, :, 0]
        index = labels.long().view(-1, *[1] * (values.dim() - 1))
        return values.take_along_dim(index, 2).squeeze(2)

    def check_targets(self, feats: Sequence[Tensor], batch_index: Tensor, labels: Tensor) -> None:
        """Check everything that pooling and the choice of a class do not check for each evaluation.

        All values are read from the device at once, because each read waits for it.

        Args:
            feats: what :meth:`prepare` returned.
            batch_index: (N,) image of each object, integers.
            labels: (N,) class of each object, integers.

        Raises:
            ValueError: a label lies outside ``[0, num_classes)``, or an index outside ``[0, B)``.
        """
        if not len(labels) or records_graph():
            return
        ranges = [*labels.aminmax(), *batch_index.aminmax()]
        low, high, first, last = torch.stack([each.long() for each in ranges]).tolist()
        self.check_label_range(low, high)
        num_images = len(feats[0])
        if first < 0 or last >= num_images:
            raise ValueError(
                f"batch_index lies in [{first}, {last}], expected [0, {num_images - 1}] for "
                f"features of {num_images} images"
            )

    def check_label_range(self, low: int, high: int) -> None:
        """Raise ``ValueError`` unless labels from ``low`` to ``high`` are classes of the head."""
        if not self.class_agnostic and (low < 0 or high >= self.num_classes):
            raise ValueError(
                f"labels lie in [{low}, {high}], expected [0, {self.num_classes - 1}]; "
                "set energy_head.num_classes to the detector's number of classes"
            )

    def log_density_fn(
        self, feats: Sequence[Tensor], reference: Tensor, batch_index: Tensor, labels: Tensor
    ) -> BoxLogDensity:
        """The log-density as a function of encoded offsets from reference boxes.

        Args:
            feats: what :meth:`prepare` returned.
            reference: (N, D) boxes.
            batch_index: (N,) image of each box, int64.
            labels: (N,) class of each box, integers in ``[0, num_classes)``.

        Raises:
            ValueError: a label or a batch index is out of range.
        """
        self.check_targets(feats, batch_index, labels)
        return self.log_density_type.recordable(self, feats, reference, batch_index, labels)

    @property
    def log_density_type(self) -> type[BoxLogDensity]:
        """The class of what :meth:`log_density_fn` returns."""
        return BoxLogDensity

    def loss(
        self,
        feats: Sequence[Tensor],
        gt_boxes: Tensor,
        batch_index: Tensor,
        labels: Tensor,
        avg_factor: float | Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Training loss of the objective, averaged over the annotated boxes of the batch.

        Args:
            feats: what :meth:`prepare` returned.
            gt_boxes: (N, D) annotated boxes, see :meth:`is_trainable_box`; N may be 0, the loss is
                then a zero connected to the parameters.
            batch_index: (N,) int64.
            labels: (N,) int64.
            avg_factor: divisor of the summed loss; N if None. Across processes: the mean N.

        Returns:
            ``loss_energy`` and the objective's diagnostics as ``energy_<name>``.
        """
        fn, targets = self.training_problem(feats, gt_boxes, batch_index, labels)
        if avg_factor is not None and len(gt_boxes):  # a head may set several tasks per box
            avg_factor = avg_factor * (len(targets) / len(gt_boxes))
        out = objective_on_batch(self.objective, fn, targets, avg_factor)
        losses = {f"energy_{name}": value for name, value in out.items() if name != "loss"}
        losses |= self.further_losses(fn, avg_factor)
        return {"loss_energy": self.loss_weight * out["loss"], **losses}

    def further_losses(
        self, fn: BoxLogDensity, avg_factor: float | Tensor | None
    ) -> dict[str, Tensor]:
        """Losses of a subclass beside the objective, which has evaluated ``fn`` before; none."""
        return {}

    def training_problem(
        self, feats: Sequence[Tensor], gt_boxes: Tensor, batch_index: Tensor, labels: Tensor
    ) -> tuple[BoxLogDensity, Tensor]:
        """Arguments of the objective: f of the N objects and their encoded targets (N, D).

        A head may repeat the objects, each equally often.
        """
        fn = self.log_density_fn(feats, gt_boxes, batch_index, labels)
        # Every annotation is its own reference, so its offset is zero.
        return fn, torch.zeros_like(fn.reference)


EnergyHead.__signature__ = full_signature(EnergyHead, EnergyHead)
