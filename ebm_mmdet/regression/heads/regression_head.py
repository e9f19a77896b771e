"""What all regression heads share: labels in, losses out; densities in, predictions out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from mmdet.registry import TASK_UTILS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...energy.float32_linear import Float32Linear
from ..data_sample import RegressionDataSample
from ..label_check import check_labels
from ..posterior import Posterior
from ..target_codec import TargetCodec

__all__ = ["PredictionSettings", "RegressionHead", "perceptron"]


@dataclass(frozen=True)
class PredictionSettings:
    """How densities become numbers: the ``test_cfg`` of an ``ImageRegressor``.

    Raises:
        ValueError: a setting is outside its range.
    """

    point: Literal["mean", "median", "mode"] = "mean"
    """``median`` has the least mean absolute error, ``mean`` the least squared error, and ``mode``
    is the only one that is always a likely value."""
    num_samples: int = 1024
    """Points behind each prediction: samples of the density, or of its proposal."""
    interval_levels: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)
    """Probabilities of the central intervals."""
    method: Literal["auto", "grid", "samples"] = "auto"
    """How log Z of an energy is found. ``grid`` is for one coordinate; ``auto`` uses it there if
    there is no learned proposal."""
    grid_points: int = 2048
    """Points of the grid over the support, both ends included."""
    uniform_share: float = 0.1
    """ε of the defensive proposal (1 - ε) q + ε U(support)."""
    num_resampled: int = 256
    """Samples to return in ``pred_samples``; 0 for none."""
    seed: int = 0
    """Seed of the draws for every image."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval_levels", tuple(self.interval_levels))
        if self.point not in ("mean", "median", "mode"):
            raise ValueError(f"point={self.point!r}; use 'mean', 'median' or 'mode'.")
        if self.method not in ("auto", "grid", "samples"):
            raise ValueError(f"method={self.method!r}; use 'auto', 'grid' or 'samples'.")
        if self.num_samples < 2 or self.grid_points < 2 or self.num_resampled < 0:
            raise ValueError(
                f"num_samples={self.num_samples} and grid_points={self.grid_points} must be 2 or "
                f"more, and num_resampled={self.num_resampled} must not be negative."
            )
        if not all(0 < level < 1 for level in self.interval_levels):
            raise ValueError(f"interval_levels={self.interval_levels} must be between 0 and 1.")
        if not 0 <= self.uniform_share <= 1:
            raise ValueError(f"uniform_share={self.uniform_share} must be in [0, 1].")

    def generator(self, device: torch.device) -> torch.Generator:
        """A generator that has just been seeded."""
        return torch.Generator(device).manual_seed(self.seed)


class RegressionHead(BaseModule):
    """Base of the heads: image features (N, C) -> a density of the label, or a number.

    A subclass defines :meth:`loss` and :meth:`posterior`; a head without a density overrides
    :meth:`predict` instead of the latter.

    Args:
        in_channels: C, width of the pooled features.
        codec: config of the :class:`~ebm_mmdet.regression.TargetCodec`.
        loss_weight: factor on the loss.
        init_cfg: mmengine's.
    """

    def __init__(
        self,
        in_channels: int,
        codec: dict | TargetCodec,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels, self.loss_weight = in_channels, loss_weight
        if isinstance(codec, dict):
            codec = TASK_UTILS.build({"type": "TargetCodec", **codec})
        self.codec: TargetCodec = codec

    @abstractmethod
    def loss(self, h: Tensor, data_samples: Sequence[RegressionDataSample]) -> dict[str, Tensor]:
        """Training losses of N images with features h (N, C); N may be 0."""

    def posterior(self, h: Tensor, settings: PredictionSettings) -> Posterior:
        """The predicted densities of N images with features h (N, C)."""
        raise NotImplementedError(f"{type(self).__name__} predicts no density.")

    def labels(self, data_samples: Sequence[RegressionDataSample]) -> Tensor:
        """The labels (N, D) of N images, in their units, float32.

        Raises:
            ValueError: an image has no label, or one outside of its range. Labels on an
                accelerator are not checked, because every step would wait for it;
                ``FitTargetCodecHook`` checks those of the data sets before training.
        """
        device = self.codec.mean.device
        targets = []
        for sample in data_samples:
            if "gt_target" not in sample:
                raise ValueError(
                    f"{sample.get('img_path', 'an image')} has no label (gt_target); training "
                    "needs one for every image: remove it from the annotations."
                )
            targets.append(sample.gt_target.to(device=device, dtype=torch.float32))
        if not targets:
            return torch.zeros(0, self.codec.dim, device=device)
        widths = {len(target) for target in targets}
        if widths != {self.codec.dim}:
            raise ValueError(
                f"labels have {sorted(widths)} numbers, and the codec {self.codec.dim} ranges; "
                "declare one range for each number."
            )
        stacked = torch.stack(targets)
        if stacked.device.type == "cpu":
            check_labels(self.codec, stacked, [str(s.get("img_path", "?")) for s in data_samples])
        return stacked

    def encoded_targets(self, data_samples: Sequence[RegressionDataSample]) -> Tensor:
        """Standardised labels (N, D) to train on; integers get noise, if they are dequantised."""
        return self.codec.encode(self.codec.noisy(self.labels(data_samples)))

    def log_prob(self, h: Tensor, y: Tensor, settings: PredictionSettings) -> Tensor:
        """Log-density (N, S) at labels y (N, S, D) in their units, normalised over the support.

        Args:
            h: (N, C) features of N images.
            y: S labels for each.
            settings: how the normaliser is found.
        """
        with _ordinary_tensors(h) as h:
            posterior = self.posterior(h, settings)
            return posterior.log_prob(self.codec.encode(y)) - self.codec.log_scale

    def predict(
        self,
        h: Tensor,
        data_samples: Sequence[RegressionDataSample] | None = None,
        settings: PredictionSettings | None = None,
    ) -> list[RegressionDataSample]:
        """Predictions of N images, written into their data samples, or into new ones.

        Args:
            h: (N, C) features.
            data_samples: N, with or without labels; a label also gets its ``gt_log_prob``.
            settings: see :class:`PredictionSettings`.

        Raises:
            ValueError: a label is outside the declared ranges.
        """
        settings = settings or PredictionSettings()
        samples = _samples(h, data_samples)
        if not samples:
            return []
        with _ordinary_tensors(h) as h:
            posterior = self.posterior(h, settings)
            self._write(posterior, samples, settings)
        return samples

    def _write(
        self,
        posterior: Posterior,
        samples: list[RegressionDataSample],
        settings: PredictionSettings,
    ) -> None:
        codec = self.codec
        point = codec.decode(getattr(posterior, settings.point)())
        std = posterior.std() * codec.std
        levels = settings.interval_levels
        intervals = codec.decode(posterior.intervals(levels), wrap=False) if levels else None
        draws = None
        if settings.num_resampled:
            draws = codec.decode(posterior.samples(settings.num_resampled, settings.seed))
        log_prob, log_mass = self._at_labels(posterior, samples)
        for i, sample in enumerate(samples):
            sample.pred_target, sample.pred_std = point[i], std[i]
            if intervals is not None:
                sample.pred_interval = intervals[i]
                sample.set_metainfo({"interval_levels": levels})
            if draws is not None:
                sample.pred_samples = draws[i]
            if "gt_target" in sample:
                sample.gt_log_prob = log_prob[i]
                if codec.dequantise:
                    sample.gt_log_mass = log_mass[i]
            if posterior.ess is not None or posterior.log_z.any():
                sample.log_z = posterior.log_z[i]
            if posterior.ess is not None:
                sample.ess = posterior.ess[i]

    def _at_labels(
        self, posterior: Posterior, samples: list[RegressionDataSample]
    ) -> tuple[Tensor, Tensor]:
        """Mean log-density (N,) and log-probability (N,) of the cells of the labels."""
        codec = self.codec
        labelled = [i for i, sample in enumerate(samples) if "gt_target" in sample]
        y = codec.decode(0.5 * (codec.low + codec.high)).repeat(len(samples), 1)
        if labelled:
            targets = torch.stack([samples[i].gt_target.to(y) for i in labelled])
            names = [str(samples[i].get("img_path", "?")) for i in labelled]
            check_labels(codec, targets, names)
            y[labelled] = targets
        cells = codec.encode(codec.cell(y))
        log_p = posterior.log_prob(cells) - codec.log_scale
        return log_p.mean(1), log_p.logsumexp(1) - torch.tensor(float(cells.shape[1])).log()


@contextmanager
def _ordinary_tensors(h: Tensor) -> Iterator[Tensor]:
    """No gradients and no autocast; no inference mode, in which no mode could be climbed to."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(h.device.type, enabled=False),
    ):
        yield h.clone() if h.is_inference() else h.detach()


def _samples(
    h: Tensor, data_samples: Sequence[RegressionDataSample] | None
) -> list[RegressionDataSample]:
    if data_samples is None:
        return [RegressionDataSample() for _ in range(len(h))]
    if len(data_samples) != len(h):
        raise ValueError(f"{len(data_samples)} data samples for {len(h)} images.")
    return list(data_samples)


def perceptron(in_features: int, hidden: int, out_features: int) -> nn.Sequential:
    """Linear, ReLU, Linear, as in :class:`~ebm_mmdet.energy.MixtureDensityHead`."""
    return nn.Sequential(
        Float32Linear(in_features, hidden), nn.ReLU(), Float32Linear(hidden, out_features)
    )
