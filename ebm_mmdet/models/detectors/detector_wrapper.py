"""The part that the 2D and 3D detectors share: they hold a detector and an energy head."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...energy import RefineChosen, RefinementResult, Refiner, evaluate_only
from ..flip_mean import MapsOfViews
from ..heads import BoxLogDensity
from .dry_run import dry_run
from .label_check import check_labels
from .loading import CheckpointOfChild
from .output_capture import captured_outputs

__all__ = [
    "DetectorWrapper",
    "check_regression",
    "detector_covariance",
    "refuse_unread_configs",
    "split_result",
]

Features = Sequence[Tensor]


class DetectorWrapper(CheckpointOfChild):
    """Mixin for a detector (an ``nn.Module``) that holds another one as ``self.detector``.

    A frozen detector gets no gradients, stays in eval mode, and its weights do not change. Forward
    hooks capture its features while it runs, so nothing is computed twice and the detector is used
    unchanged. A call stores nothing on the module: several threads may predict with one model.
    """

    child = "detector"
    min_score: float = 0.0
    """Detections with a lower score are evaluated, but not moved."""

    def wrap(
        self,
        detector: nn.Module,
        feature_source: str | Sequence[str],
        freeze_detector: bool = True,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        min_score: float = 0.0,
    ) -> None:
        """Store ``detector`` and its hooks; called once, in ``__init__`` after ``nn.Module``'s own.

        Args:
            detector: the wrapped detector; from now on it shares the wrapper's data preprocessor.
            feature_source: dotted name of the detector's module whose output is used as features,
                or several names, whose outputs are used in this order.
            freeze_detector: whether the detector gets no gradients and stays in eval mode.
            train_cfg: must be empty, because the wrapper reads none.
            test_cfg: likewise.
            min_score: see the attribute.

        Raises:
            ValueError: the detector has no module of a name in ``feature_source``, ``min_score`` is
                negative or not finite, or ``train_cfg`` or ``test_cfg`` is given, which nothing
                would read.
        """
        refuse_unread_configs(self, train_cfg=train_cfg, test_cfg=test_cfg)
        if not 0 <= min_score < math.inf:
            raise ValueError(
                f"min_score={min_score}; give the lowest score of a box to refine, 0 for all"
            )
        self.min_score = float(min_score)
        self.detector = detector
        self.detector.data_preprocessor = self.data_preprocessor
        self.feature_sources = (
            (feature_source,) if isinstance(feature_source, str) else tuple(feature_source)
        )
        modules = dict(detector.named_modules())
        for name in self.feature_sources:
            if not name or name not in modules:
                raise ValueError(
                    f"{type(detector).__name__} has no {name!r}; set feature_source to "
                    f"some of its modules that give maps: {self._candidates()}"
                )
        self.freeze_detector = freeze_detector
        if freeze_detector:
            detector.requires_grad_(False)
            detector.eval()
        self.report_loading()

    def train(self, mode: bool = True):
        """Set the training mode; a frozen detector stays in eval mode."""
        super().train(mode)
        if self.freeze_detector:
            self.detector.eval()
        return self

    @contextmanager
    def capture_features(self) -> Iterator[Callable[[], tuple[Tensor, ...]]]:
        """Context in which the outputs of ``feature_source`` are captured while the detector runs.

        Yields:
            A function that returns the maps (B, C, H, W) of the detector's last run in this thread.
            It raises a ``RuntimeError`` if a source did not run, or gave something else than maps.
        """
        sources = [(name, self.detector.get_submodule(name)) for name in self.feature_sources]
        with captured_outputs(*(module for _, module in sources)) as heard:
            yield lambda: tuple(
                itertools.chain.from_iterable(
                    self._maps_of(name, heard.get(module)) for name, module in sources
                )
            )

    def _maps_of(self, name: str, heard: object) -> Features:
        """What a source gave, or an error that names it."""
        if isinstance(heard, Tensor):
            return (heard,)
        if isinstance(heard, Sequence) and not isinstance(heard, str):
            return heard
        found = "did not run" if heard is None else f"gives {type(heard).__name__}"
        raise RuntimeError(
            f"feature_source={name!r} {found} where {type(self.detector).__name__} computes its "
            "features; choose a module that runs there and gives a map or a sequence of maps: "
            f"{self._candidates()}"
        )

    def _candidates(self) -> str:
        """Names of the modules that run in ``extract_feat`` and give maps, for messages."""
        try:
            return ", ".join(dry_run(self.detector).candidates())
        except RuntimeError:  # such as a 3D detector, whose input is no image
            return "'neck' or 'backbone', or parts of them"

    def extract_maps(self, *inputs) -> tuple[Tensor, ...]:
        """Run ``detector.extract_feat(*inputs)`` and return the captured maps.

        Returns:
            Maps (B, C, H, W) of every ``feature_source``, without gradient if frozen.
        """
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_detector),
            self.capture_features() as features,
        ):
            self.detector.extract_feat(*inputs)
        return features()

    def energy_losses(
        self, feats: Features, annotated: Sequence[tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """Losses of the energy head; boxes that the head cannot be trained on are left out.

        Args:
            feats: what ``energy_head.prepare`` returned.
            annotated: boxes (n, D) and labels (n,) of each image; a negative label marks an object
                of a class that is not trained, which is left out.
        """
        boxes, index, labels = [], [], []
        for i, (box, label) in enumerate(annotated):
            keep = self.energy_head.is_trainable_box(box) & (label >= 0)
            boxes.append(box[keep])
            labels.append(label[keep].long())
            index.append(torch.full_like(labels[-1], i))
        device = self._device
        everything = torch.cat([torch.zeros(0, self.energy_head.dim, device=device), *boxes])
        none = torch.zeros(0, dtype=torch.long, device=device)
        # As in mmdet: divide by the mean count per process, so that gradients averaged over
        # processes equal those of one process with all images. The mean may be below 1, and 0 if
        # no process has a box: the objectives define their mean for 0 too.
        count = reduce_mean(everything.new_tensor(float(len(everything))))
        return self.energy_head.loss(
            feats,
            everything,
            torch.cat([none, *index]),
            torch.cat([none, *labels]),
            avg_factor=count,
        )

    @property
    def _device(self) -> torch.device:
        return next(self.energy_head.parameters()).device

    def find_modes(
        self,
        feats: Features,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        refiner: Refiner | None,
        covariances: Sequence[Tensor | None] = (),
        first_image: int = 0,
        scores: Sequence[Tensor] | None = None,
        validate: bool = True,
    ) -> tuple[list[Tensor], list[RefinementResult]]:
        """Refine the boxes of a batch in one call of the refiner.

        Args:
            feats: what ``energy_head.prepare`` returned, or that of several views.
            boxes: (n, D) detections of each image, in the coordinates of ``feats``.
            labels: (n,) of each image.
            refiner: the refiner, or None to evaluate f at the given boxes only.
            covariances: (n, D, D) of each image in encoded coordinates, or None for an image for
                which the detector gives none.
            first_image: index in ``feats`` of the image that ``boxes[0]`` belongs to.
            scores: (n,) of each image, of which those below ``min_score`` leave their boxes where
                they are; None refines all.
            validate: False if a later call gets all labels that matter. Here those of no class then
                count as the nearest one on a GPU, for which a check would wait.

        Returns:
            The reference boxes (n, D) float32 and the results, image by image.

        Raises:
            ValueError: ``min_score`` leaves boxes out, and the refiner samples; or a label is none
                of the head's classes.
        """
        wanted = None
        if refiner is not None and scores is not None and self.min_score > 0:
            wanted = torch.cat(list(scores)) >= self.min_score
        counts = [len(box) for box in boxes]
        everything = torch.cat([box.float() for box in boxes])
        # Not repeat_interleave of a tensor of counts, which would wait for a GPU.
        index = [
            torch.full((n,), i, dtype=torch.int64, device=everything.device)
            for i, n in enumerate(counts, first_image)
        ]
        head = feats.head if isinstance(feats, MapsOfViews) else self.energy_head
        images = range(first_image, first_image + len(counts))
        label = torch.cat(list(labels)).long()
        label, wanted, checked = check_labels(
            self.energy_head, feats, images, label, wanted, validate
        )
        if wanted is not None:
            refiner = RefineChosen(refiner, wanted)
        # Maps that the head has projected have a graph to its parameters, which is not wanted here.
        with checked:
            fn: BoxLogDensity = head.log_density_fn(
                [feat.detach() for feat in feats], everything, torch.cat(index), label
            )
        # An image without detections does not show whether the detector gives covariances.
        given = [each for each, n in zip(covariances, counts) if n]
        # Refiners and proposals compare numbers that half precision cannot distinguish.
        with torch.autocast(everything.device.type, enabled=False):
            result = (refiner or evaluate_only)(
                fn,
                torch.zeros_like(fn.reference),
                covariance=_joined(given),
                num_per_image=counts,
            )
        return list(fn.reference.split(counts)), split_result(result, counts)


def split_result(result: RefinementResult, counts: Sequence[int]) -> list[RefinementResult]:
    """Split the result of a batch into those of its images, with ``counts`` targets; no trace."""
    fields = [
        itertools.repeat(None) if value is None else value.split(list(counts))
        for value in result._replace(trace=None)
    ]
    return [RefinementResult(*image) for image in itertools.islice(zip(*fields), len(counts))]


def _joined(covariances: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate the covariances of all images; None unless every image has one."""
    if not covariances or any(each is None for each in covariances):
        return None
    return torch.cat([each for each in covariances if each is not None])


def detector_covariance(instances: InstanceData) -> Tensor | None:
    """The detector's covariance of its boxes, (n, D, D) in encoded coordinates, or None.

    Reads ``box_cov`` (n, D, D), or else ``box_std`` (n, D), which means independent errors.
    """
    if "box_cov" in instances:
        return instances.box_cov
    if "box_std" in instances:
        return torch.diag_embed(instances.box_std.square())
    return None


def check_regression(head: nn.Module, refiner: object) -> None:
    """Raise ``ValueError`` if a refiner needs a regression that the head does not have."""
    steps = getattr(refiner, "regression_steps", 0)
    if steps and not getattr(head, "regresses", False):
        raise ValueError(
            f"refiner.regression_steps={steps}, but {type(head).__name__} has no regression; set "
            "energy_head.regression=dict() and train it, or regression_steps=0"
        )


def refuse_unread_configs(wrapper: nn.Module, **configs: dict | None) -> None:
    """Refuse a config of a wrapper that belongs to the detector inside.

    Raises:
        ValueError: one of ``configs`` (``train_cfg``, ``test_cfg``) is neither None nor empty.
    """
    for name, cfg in configs.items():
        if cfg:
            raise ValueError(
                f"{type(wrapper).__name__} got {name}={dict(cfg)}, which nothing would read; "
                f"it belongs to the detector inside: model.detector.{name}"
            )
