"""What the energy-based detectors of 2D and 3D share: a detector inside, and an ear on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...energy import LogDensityFn
from .loading import adapt_plain_checkpoints

__all__ = ["DetectorWrapper", "log_density_of_reference"]


class DetectorWrapper:
    """Mixin for a detector (an ``nn.Module``) that holds another one as ``self.detector``.

    A frozen detector has no gradient, stays in eval mode and keeps every byte. Its features are
    listened to while it runs, so nothing is computed twice and nothing in it is changed.
    """

    def wrap(
        self,
        detector: nn.Module,
        feature_source: str | Sequence[str],
        freeze_detector: bool = True,
        after_plain_checkpoint: Callable[[], str] | None = None,
    ) -> None:
        """Take ``detector`` in; called once, in ``__init__`` after that of ``nn.Module``.

        Args:
            detector: shares our data preprocessor from now on.
            feature_source: dotted name of the detector's module whose output are the features, or
                several, whose outputs follow one another.
            freeze_detector: no gradient and eval mode.
            after_plain_checkpoint: see :func:`.loading.adapt_plain_checkpoints`.

        Raises:
            ValueError: the detector has no module named in ``feature_source``.
        """
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
                    "some of its modules: "
                    + ", ".join(child for child, _ in detector.named_children())
                    + ", or to parts of them, such as 'backbone.layer1'"
                )
        self.freeze_detector = freeze_detector
        if freeze_detector:
            detector.requires_grad_(False)
            detector.eval()
        adapt_plain_checkpoints(self, child="detector", after=after_plain_checkpoint)

    def train(self, mode: bool = True):
        """Set the training mode; a frozen detector stays in eval mode."""
        super().train(mode)
        if self.freeze_detector:
            self.detector.eval()
        return self

    @contextmanager
    def capture_features(self) -> Iterator[Callable[[], tuple[Tensor, ...]]]:
        """While the detector runs inside, listen to ``feature_source``.

        Yields:
            A function that returns the maps (B, C, H, W) of the detector's last run.
        """
        captured: dict[str, Sequence[Tensor]] = {}

        def listen(name: str):
            def hook(_, __, output: Tensor | Sequence[Tensor]) -> None:
                captured[name] = (output,) if isinstance(output, Tensor) else output

            return self.detector.get_submodule(name).register_forward_hook(hook)

        handles = [listen(name) for name in self.feature_sources]
        try:
            yield lambda: tuple(
                itertools.chain.from_iterable(captured[name] for name in self.feature_sources)
            )
        finally:
            for handle in handles:
                handle.remove()

    def extract_features(self, *inputs) -> tuple[Tensor, ...]:
        """Run ``detector.extract_feat(*inputs)`` and return what was heard, no gradient if frozen.

        Returns:
            Maps (B, C, H, W) of every ``feature_source``.
        """
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_detector),
            self.capture_features() as features,
        ):
            self.detector.extract_feat(*inputs)
        return features()


@torch.no_grad()
def log_density_of_reference(fn: LogDensityFn) -> Tensor:
    """The log-density (N,) of the boxes ``fn.reference`` (N, D) themselves."""
    return fn(torch.zeros_like(fn.reference)[:, None, :]).squeeze(1)
