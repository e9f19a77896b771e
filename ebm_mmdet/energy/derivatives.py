"""First and second derivatives of a log-density with respect to y."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from .contracts import LogDensityFn
from .log_density import at_least_float32, evaluate

__all__ = ["grad_log_density", "hessian_trace", "value_and_grad"]

TraceMethod = Literal["exact", "hutchinson"]


def grad_log_density(log_density_fn: LogDensityFn, y: Tensor, create_graph: bool = False) -> Tensor:
    """∇_y f at points y (N, S, D), encoded coordinates; see :func:`value_and_grad`."""
    return value_and_grad(log_density_fn, y, create_graph)[1]


def value_and_grad(
    log_density_fn: LogDensityFn, y: Tensor, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Evaluate f (N, S) and ∇_y f (N, S, D) at points y (N, S, D), with one backward pass.

    Works in any mode of the caller: f is evaluated with gradients on, inference mode and autocast
    off (see :class:`LogDensityFn`). The backward pass goes to y only: no ``.grad`` is touched.

    Args:
        log_density_fn: f; entry (n, s) must depend on point (n, s) only.
        y: (N, S, D) points, encoded coordinates; taken as constants.
        create_graph: return both with the graph to the parameters of f, to train on them.
            Otherwise they are detached.

    Raises:
        RuntimeError: the returned f has no gradient with respect to y.
    """
    with differentiable(y):
        y = _leaf(y)
        f = evaluate(log_density_fn, y)
        grad = gradient(f, y, torch.ones_like(f), create_graph)
    return (f, grad) if create_graph else (f.detach(), grad)


def hessian_trace(
    log_density_fn: LogDensityFn,
    y: Tensor,
    method: TraceMethod = "exact",
    probes: int = 1,
    generator: torch.Generator | None = None,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor]:
    """∇_y f and tr ∇²_y f at points y, by one evaluation of f.

        exact        Σ_d ∂²f/∂y_d²                       D backward passes
        hutchinson   mean_p v_pᵀ (∇²f) v_p,  v_d = ±1     one per probe, unbiased

    With Rademacher probes v the diagonal of the Hessian adds no error, and the variance is
    2 Σ_{i≠j} H_ij² / probes, which is 0 for D = 1. Everything else is as in
    :func:`value_and_grad`.

    Source: Hutchinson, Communications in Statistics 1990.

    Args:
        log_density_fn: f, twice differentiable in y; with ReLU its curvature is zero almost
            everywhere.
        y: (N, S, D) points, encoded coordinates; taken as constants.
        method: ``"exact"`` or ``"hutchinson"``.
        probes: number of v per point.
        generator: source of the probes, on the device of ``y``.
        create_graph: return both with the graph to the parameters of f.

    Returns:
        Gradients (N, S, D) and traces (N, S).

    Raises:
        ValueError: the method is unknown, or there are no probes.
        RuntimeError: the returned f has no gradient with respect to y.
    """
    return value_grad_and_trace(log_density_fn, y, method, probes, generator, create_graph)[1:]


def value_grad_and_trace(
    log_density_fn: LogDensityFn,
    y: Tensor,
    method: TraceMethod,
    probes: int,
    generator: torch.Generator | None,
    create_graph: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate f (N, S), ∇f (N, S, D) and tr ∇²f (N, S); see :func:`hessian_trace`."""
    check_trace_method(method, probes)
    with differentiable(y):
        y = _leaf(y)
        f = evaluate(log_density_fn, y)
        grad = gradient(f, y, torch.ones_like(f), create_graph=True)
        if method == "exact":
            unit = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
            terms = [
                _hessian_product(grad, y, unit[d].expand_as(y), create_graph)[..., d]
                for d in range(y.shape[-1])
            ]
        else:
            options: dict[str, Any] = {"generator": generator, "device": y.device}
            signs = [
                2 * torch.randint(2, y.shape, **options).to(y.dtype) - 1 for _ in range(probes)
            ]
            terms = [
                (_hessian_product(grad, y, v, create_graph) * v).sum(-1) / probes for v in signs
            ]
        trace = sum(terms[1:], terms[0])
    if create_graph:
        return f, grad, trace
    return f.detach(), grad.detach(), trace.detach()


def check_trace_method(method: str, probes: int) -> None:
    """Raise ``ValueError`` if the method is unknown or there are no probes."""
    if method not in ("exact", "hutchinson"):
        raise ValueError(f"trace method {method!r} is unknown; use 'exact' or 'hutchinson'.")
    if probes < 1:
        raise ValueError(f"probes={probes} estimate nothing; at least 1 is needed.")


@contextlib.contextmanager
def differentiable(y: Tensor) -> Iterator[None]:
    """Gradients on, inference mode and autocast off, as differentiating f at ``y`` requires."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(y.device.type, enabled=False),
    ):
        yield


def gradient(f: Tensor, y: Tensor, grad_outputs: Tensor, create_graph: bool = False) -> Tensor:
    """Σ_ns grad_outputs[n, s] ∇_y f[n, s], in the shape of ``y``.

    Raises:
        RuntimeError: f has no gradient with respect to y.
    """
    slope = None
    if f.requires_grad:
        (slope,) = torch.autograd.grad(
            f, y, grad_outputs, create_graph=create_graph, allow_unused=True
        )
    if slope is None:
        raise RuntimeError(
            "log_density_fn returned values without a gradient with respect to y; remove the "
            "no_grad, inference_mode or detach between y and f inside the function."
        )
    return slope


def _leaf(y: Tensor) -> Tensor:
    # Autograd cannot record a tensor that was made in inference mode, but it can record its copy.
    y = y.clone() if y.is_inference() else y.detach()
    return y.to(at_least_float32(y.dtype)).requires_grad_()


def _hessian_product(grad: Tensor, y: Tensor, v: Tensor, create_graph: bool) -> Tensor:
    """(∇²f) v; zeros if ∇f does not depend on y."""
    product = None
    if grad.requires_grad:
        (product,) = torch.autograd.grad(
            grad, y, v, create_graph=create_graph, retain_graph=True, allow_unused=True
        )
    return torch.zeros_like(y) if product is None else product
