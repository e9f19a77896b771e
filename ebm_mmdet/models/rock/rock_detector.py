"""Any mmdet detector with a ROCK block behind its backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.config import ConfigDict
from torch import Tensor, nn

from ..detectors.detector_wrapper import refuse_unread_configs
from ..detectors.loading import CheckpointOfChild
from ..detectors.output_capture import captured_outputs

__all__ = ["ROCKDetector"]


@MODELS.register_module()
class ROCKDetector(CheckpointOfChild, BaseDetector):
    """Wraps a detector: a :class:`ROCKBlock` replaces one level of what its backbone gives.

    The detector is any of mmdet's that has a ``backbone``: with ``SSDLevels`` and ``ROCKSSDHead``
    it is ROCK's SSD; with an FPN, the block is in front of the FPN. Its losses gain ``loss_scene``,
    ``loss_depth`` and ``loss_normals``, and its predictions ``pred_scene``, ``pred_depth`` and
    ``pred_normals`` (:class:`SceneTask`, :class:`DepthTask`, :class:`NormalsTask`).

    The predicted maps lie as the image does that the network has seen: those of a flipped image are
    flipped. With test-time augmentation ``EBMTTAModel`` turns them back and averages.

    Checkpoints of the detector alone load, and so do those of this class. A call stores nothing on
    the module: several threads may predict with one model.

    Args:
        detector: config of the detector.
        block: config of the block.
        level: index of the level in the output of the backbone.
        data_preprocessor: by default the detector's own.
        train_cfg: refused unless empty, because only the wrapped detector has one.
        test_cfg: likewise.
        init_cfg: mmengine's.

    Raises:
        ValueError: the detector has no ``backbone``, or ``train_cfg`` or ``test_cfg`` is given.

    Source: Mordan et al., NeurIPS 2018 (Revisiting Multi-Task Learning with ROCK).
    """

    child = "detector"

    def __init__(
        self,
        detector: dict,
        block: dict,
        level: int = -1,
        data_preprocessor: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        # Built, and not its config: a detector may have a preprocessor that its config lacks.
        inner = MODELS.build(ConfigDict(detector))
        super().__init__(data_preprocessor or inner.data_preprocessor, init_cfg)
        refuse_unread_configs(self, train_cfg=train_cfg, test_cfg=test_cfg)
        if not isinstance(getattr(inner, "backbone", None), nn.Module):
            raise ValueError(
                f"{type(inner).__name__} has no backbone that ROCKDetector could put a block "
                "behind; wrap the detector inside it"
            )
        self.detector = inner
        self.detector.data_preprocessor = self.data_preprocessor
        self.block = MODELS.build(ConfigDict(block))
        self.level = level
        # A hook, so that the detector and the names of its weights stay what they are without us.
        self.detector.backbone.register_forward_hook(self._run_block)
        self.report_loading()

    def _run_block(self, _: nn.Module, __: tuple, output: Tensor | Sequence[Tensor]):
        """Forward hook of the backbone: its output with the block's map in place of one level."""
        levels = [output] if isinstance(output, Tensor) else list(output)
        if not -len(levels) <= self.level < len(levels):
            raise ValueError(
                f"ROCKDetector(level={self.level}), but the backbone gives {len(levels)} levels"
            )
        levels[self.level], _predictions = self.block(levels[self.level])
        return levels[0] if isinstance(output, Tensor) else tuple(levels)

    @contextmanager
    def _predictions(self) -> Iterator[dict[str, Tensor]]:
        """Context in which the detector runs; the dictionary is filled when it ends."""
        found: dict[str, Tensor] = {}
        with captured_outputs(self.block) as heard:
            yield found
        if self.block not in heard:
            raise RuntimeError(
                f"{type(self.detector).__name__} did not run its backbone, and so not the block"
            )
        found.update(heard[self.block][1])

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) preprocessed images -> the detector's features, of the block's output."""
        return self.detector.extract_feat(batch_inputs)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of the detector and of the block's tasks."""
        with self._predictions() as predictions:
            losses = self.detector.loss(batch_inputs, batch_data_samples)
        return {**losses, **self.block.loss(predictions, batch_data_samples)}

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """Detections, and the predictions of the block's tasks.

        Args:
            batch_inputs: (B, 3, H, W) preprocessed images.
            batch_data_samples: their data samples.
            rescale: return boxes in pixels of the original image instead of the network's input.
                The predicted maps keep the resolution of the block's map.
        """
        with self._predictions() as predictions:
            samples = self.detector.predict(batch_inputs, batch_data_samples, rescale=rescale)
        self.block.write(predictions, samples)
        return samples

    def _forward(self, batch_inputs: Tensor, batch_data_samples: SampleList | None = None):
        """Outputs of the networks, for ``mode='tensor'`` and for counters of operations.

        Returns:
            The detector's own output in this mode, and the raw predictions of the block's tasks, in
            their order.
        """
        with self._predictions() as predictions:
            outputs = self.detector._forward(batch_inputs, batch_data_samples)
        return outputs, tuple(predictions.values())
