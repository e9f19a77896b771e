"""Labels of the boxes of a batch, checked by the one read that also says which boxes to refine."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from ...energy.host_reads import pays_to_read, read_together, records_graph, without_reads

__all__ = ["check_labels"]


def check_labels(
    head: nn.Module,
    feats: Sequence[Tensor],
    images: range,
    labels: Tensor,
    wanted: Tensor | None = None,
    validate: bool = True,
) -> tuple[Tensor, Tensor | None, AbstractContextManager[None]]:
    """Check labels (N,) and images before f of a batch is made; each read waits for a GPU.

    Args:
        head: the model's energy head. What takes its place, such as a mean of several heads, may
            check labels by itself.
        feats: maps (B, C, H, W).
        images: indices of the images that the boxes belong to.
        labels: (N,) int64.
        wanted: (N,) bool, which boxes to refine, or None for all of them.
        validate: False to check nothing on a GPU: labels of no class then count as the nearest one.

    Returns:
        The labels; ``wanted``, on the host if it was read; and the context in which the head makes
        f without a check of its own.

    Raises:
        ValueError: a label is none of the head's classes, or there are more images than maps.
    """
    if not hasattr(head, "check_targets") or records_graph():
        return labels, wanted, contextlib.nullcontext()
    if validate or pays_to_read(labels.device, 0):
        on_host, *chosen = read_together(labels, *([] if wanted is None else [wanted]))
        head.check_targets(feats, torch.tensor([images[0], images[-1]], device="cpu"), on_host)
        wanted = chosen[0] if chosen else None
    else:
        labels = labels.clamp(0, head.num_classes - 1)
    return labels, wanted, without_reads(for_this_machine=True)
