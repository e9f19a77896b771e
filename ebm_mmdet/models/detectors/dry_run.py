"""One run of a detector's ``extract_feat``, to see which maps it gives."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..feature_maps import FeatureMap, measure_maps

__all__ = ["DryRun", "Reduction", "default_source", "dry_run", "maps_of"]

SIZE = 256
"""Pixels of the blank image, if the detector takes it: a map of stride 32 has 8 x 8 cells."""
OTHER_SIZES = (224, 512, 640, 1024)
"""Tried in this order where the first size fails, as with a fixed position embedding."""


class Reduction(NamedTuple):
    """A convolution or pooling that makes a map smaller."""

    module: str
    """Its dotted name."""
    stride: int
    """Pixels per cell of the map that it reads."""
    factor: int
    """Cells that become one."""
    centre: float
    """Position of its output cell 0 in the map that it reads, in cells."""


class DryRun(NamedTuple):
    """What ran in ``extract_feat``."""

    shape: tuple[int, int]
    """Height and width of the network's input in pixels."""
    outputs: dict[str, list[FeatureMap]]
    """Shapes of the maps of every module that ran and gives maps, by its dotted name, in the order
    in which the modules finished."""
    reductions: list[Reduction]
    """In the order in which they ran."""

    @property
    def size(self) -> int:
        """Height in pixels; of a blank image, which is square, the width too."""
        return self.shape[0]

    def enlarged(self, factor: int) -> DryRun:
        """The same with images that are enlarged: strides in pixels of the image as it is."""
        outputs = {
            name: [each.enlarged(factor) for each in maps] for name, maps in self.outputs.items()
        }
        return self._replace(outputs=outputs)

    def candidates(self) -> list[str]:
        """Modules that can be a ``feature_source``: necks, backbones, and the stages of these."""
        ends = {name: name.rpartition(".") for name in self.outputs}
        whole = [name for name, (_, _, end) in ends.items() if end in ("neck", "backbone")]
        stages = [
            name
            for name, (parent, _, _) in ends.items()
            if parent.rpartition(".")[2] == "backbone"
            and any(other.startswith(f"{name}.") for other in self.outputs)
        ]
        others = [name for name in self.outputs if "." not in name and name not in whole]
        return sorted(whole, key=lambda name: name.count(".")) + others + stages


def maps_of(output) -> tuple[Tensor, ...] | None:
    """The maps (B, C, H, W) in a module's output, or None if it is something else."""
    outputs = (output,) if isinstance(output, Tensor) else output
    if not isinstance(outputs, Sequence) or isinstance(outputs, str) or not outputs:
        return None
    whole = all(isinstance(each, Tensor) and each.dim() == 4 for each in outputs)
    return tuple(outputs) if whole else None


@torch.no_grad()
def dry_run(detector: nn.Module, image: Tensor | None = None) -> DryRun:
    """Run ``detector.extract_feat`` once, on the device of its parameters.

    The detector does not change: it runs in eval mode, so statistics are not updated, every
    module gets its mode back, and the state of torch's generators is restored. On the meta device
    nothing is computed. Where an operator has no CPU version and there is a GPU, the detector is
    moved there and back.

    Args:
        detector: the detector.
        image: (1, C, H, W) float32, what its preprocessor gives. A side of less than 256 pixels
            gets zeros after it, since a map of one cell does not tell its stride. None: zeros of
            256 x 256 pixels, or of another size where the detector does not take this one.

    Raises:
        RuntimeError: ``extract_feat`` raises for the image, or for every size that is tried; the
            message has its error, and, for a blank image, the settings with which nothing needs
            to be found.
    """
    least, given = _padded(detector), image is not None
    if given:
        height, width = image.shape[-2:]
        tries = [functional.pad(image, (0, max(least - width, 0), 0, max(least - height, 0)))]
    else:
        shape, sides = (1, _channels(detector)), dict.fromkeys((least, *OTHER_SIZES))
        tries = [torch.zeros(*shape, side, side, device="cpu") for side in sides]
    errors = []
    with _unchanged(detector):
        for each in tries:
            try:
                return _run(detector, each)
            except Exception as error:  # whatever a detector of unknown make raises
                errors.append(error)
        if torch.cuda.is_available() and _device(detector).type == "cpu":
            try:
                return _run(detector.cuda(), tries[0])
            except Exception as error:
                errors.append(error)
            finally:
                detector.cpu()
    height, width = tries[0].shape[-2:]
    said = (
        f"{type(detector).__name__}.extract_feat does not run on {'an' if given else 'a blank'} "
        f"image of {width} x {height} pixels ({type(errors[0]).__name__}: {errors[0]})"
    )
    if not given:
        said += (
            ", so its maps cannot be found; give energy_head.in_channels, strides and "
            "feature_levels, and feature_source"
        )
    raise RuntimeError(said) from errors[0]


def default_source(detector: nn.Module, run: DryRun | None = None) -> str | None:
    """Name of the module whose maps are used by default: the neck, else the backbone.

    Args:
        detector: the detector.
        run: its dry run. None: only the modules ``neck`` and ``backbone`` are looked for; with it,
            also those of a detector inside, such as ``teacher.neck``.

    Returns:
        The dotted name, or None if there is no such module.
    """
    for name in ("neck", "backbone"):
        if run is None:
            if isinstance(getattr(detector, name, None), nn.Module):
                return name
            continue
        inside = [other for other in run.outputs if other.rpartition(".")[2] == name]
        if inside:
            return min(inside, key=lambda other: other.count("."))
    return None


def _run(detector: nn.Module, image: Tensor) -> DryRun:
    shape = tuple(image.shape[-2:])
    run = DryRun(shape, {}, [])

    def listener(name: str):
        def listen(module: nn.Module, inputs: tuple, output) -> None:
            maps = maps_of(output)
            if maps is None:
                return
            run.outputs[name] = measure_maps(maps, shape)
            reduction = _reduction(name, module, inputs, run.outputs[name], shape)
            if reduction is not None:
                run.reductions.append(reduction)

        return listen

    handles = [
        module.register_forward_hook(listener(name))
        for name, module in detector.named_modules()
        if name
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the detector's own, which its real runs give again
            detector.extract_feat(image.to(_device(detector)))
    finally:
        for handle in handles:
            handle.remove()
    return run


def _reduction(
    name: str,
    module: nn.Module,
    inputs: tuple,
    after: list[FeatureMap],
    shape: tuple[int, int],
) -> Reduction | None:
    """The reduction that a module is, or None if it is none."""
    kernel, stride = (getattr(module, each, None) for each in ("kernel_size", "stride"))
    before = maps_of(inputs)
    if kernel is None or stride is None or not before or not before[0].shape[2]:
        return None
    kernel, stride, padding, dilation = (
        value if isinstance(value, int) else value[0] if isinstance(value, tuple) else default
        for value, default in (
            (kernel, 1),
            (stride, 1),
            (getattr(module, "padding", 0), 0),
            (getattr(module, "dilation", 1), 1),
        )
    )
    (given,) = measure_maps(before[:1], shape)
    if stride <= 1 or after[0].stride <= given.stride or not given.stride:
        return None
    return Reduction(name, given.stride, stride, dilation * (kernel - 1) / 2 - padding)


def _device(detector: nn.Module) -> torch.device:
    return next((each.device for each in detector.parameters()), torch.device("cpu"))


def _channels(detector: nn.Module) -> int:
    """Channels that the first convolution of the backbone takes; 3 if it has none."""
    backbone = getattr(detector, "backbone", detector)
    first = next((each for each in backbone.modules() if isinstance(each, nn.Conv2d)), None)
    # Some read an image in parts: four pixels at once, as 12 channels.
    return 1 if first is not None and first.in_channels == 1 else 3


def _padded(detector: nn.Module) -> int:
    """The usual size, raised to a multiple of what the detector's preprocessor pads to."""
    divisor = getattr(getattr(detector, "data_preprocessor", None), "pad_size_divisor", 1)
    divisor = divisor if isinstance(divisor, int) and divisor > 0 else 1
    return -(-SIZE // divisor) * divisor


@contextmanager
def _unchanged(detector: nn.Module) -> Iterator[None]:
    """Eval mode within the context; afterwards each module's mode and the generators as before."""
    modes = {module: module.training for module in detector.modules()}
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            # Not through train(): some backbones freeze parameters there.
            for module in modes:
                module.training = False
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
