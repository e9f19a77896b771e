"""Loss functions of log-densities: pure tensor arithmetic, without models and sampling.

Every function body is the equation of one target, computed in float32 or better, also under
autocast. The decorator :func:`.reduction.weighted` adds the arguments of mmdet's losses
(``weight``, ``reduction``, ``avg_factor``), see :class:`.reduction.Weighting`. For N = 0 the scalar
is a zero connected to the graph of the inputs. Every loss raises ``ValueError`` if shapes do not
agree or the reduction is unknown.

All but NCE and DSM may be negative, since a density may exceed one: that is not an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .log_density import at_least_float32
from .masked_means import log_mean_exp, masked_mean
from .reduction import Weighting, weighted

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "dsm_loss",
    "kld_is_loss",
    "mcmc_loss",
    "mdn_teacher_loss",
    "ml_is_loss",
    "nce_loss",
    "proposal_kl_loss",
    "score_matching_loss",
]

# exp(40) = 2e17: a sample that outweighs so many others has already ruined the estimate, and the
# product of such a ratio with f is still finite in float32.
_MAX_LOG_RATIO = 40.0


@weighted
def nce_loss(
    log_f: Tensor, log_q: Tensor, *, valid: Tensor | None = None, **weighting: Unpack[Weighting]
) -> Tensor:
    """Noise contrastive estimation, ranking form: find the positive among the noise.

        L_n = logsumexp_m(a_nm) - a_n0,   a_nm = f(x_n, y_nm) - log q(y_nm),   m = 0..M

    Index 0 is the positive. L is invariant to a constant added to all f of one target, is never
    negative, and is log(1 + M) where all a are equal.

    Source: Gustafsson et al., BMVC 2020 (arXiv:2005.01698), NCE and NCE+.

    Args:
        log_f: (N, 1+M) unnormalised log-densities f.
        log_q: (N, 1+M) log-densities of the noise at the same points, in nats.
        valid: (N, 1+M) bool, False for padded noise samples, which are left out. Column 0 is not
            read: to leave out a target, give it weight 0.
    """
    _check_same_shape(log_f=log_f, log_q=log_q, positive_first=True)
    log_f, log_q = _at_least_float32(log_f, log_q)
    logits = log_f - log_q
    if valid is not None:
        absent = ~valid.to(torch.bool)
        absent[:, 0] = False
        logits = logits.masked_fill(absent, -torch.inf)
    # log_softmax subtracts the maximum first, so a small loss stays exact beside |f| = 1e4.
    return -logits.log_softmax(1)[:, 0]


@weighted
def ml_is_loss(
    log_f: Tensor, log_q: Tensor, *, valid: Tensor | None = None, **weighting: Unpack[Weighting]
) -> Tensor:
    """Maximum likelihood, with Z estimated by importance sampling.

        L_n = logsumexp_m(f(x_n, y_nm) - log q(y_nm)) - log M - f(x_n, y_n0),   m = 1..M

    Index 0 is the target, which does not enter the estimate of Z. L is invariant to a constant
    added to all f of one target, and tends to -log p(y_n0 | x_n) as M grows.

    Source: Gustafsson et al., ECCV 2020 (arXiv:1909.12297) and BMVC 2020 (arXiv:2005.01698); with
    ``log_q`` of a learned proposal not detached, the joint objective of "Learning Proposals for
    Practical Energy-Based Regression", AISTATS 2022 (arXiv:2110.11948).

    Args:
        log_f: (N, 1+M) unnormalised log-densities f, M ≥ 1.
        log_q: (N, 1+M) log-densities of the proposal at the same points, in nats. Column 0 is not
            read.
        valid: (N, 1+M) bool, False for padded samples, which are left out. Column 0 is not read.
            Where no sample is left, L is 0.
    """
    _check_same_shape(log_f=log_f, log_q=log_q, positive_first=True)
    if log_f.shape[1] < 2:
        raise ValueError("log_f has the target only; ML-IS needs at least one sample beside it.")
    log_f, log_q = _at_least_float32(log_f, log_q)
    # Relative to the target first: large f cancel before anything is rounded.
    logits = (log_f[:, 1:] - log_f[:, :1]) - log_q[:, 1:]
    return log_mean_exp(logits, None if valid is None else valid[:, 1:])


@weighted
def kld_is_loss(
    log_f: Tensor,
    log_q: Tensor,
    log_p: Tensor,
    *,
    self_normalize: bool = False,
    valid: Tensor | None = None,
    **weighting: Unpack[Weighting],
) -> Tensor:
    """Cross-entropy from a label density p to the model, both terms by importance sampling.

        L_n = logsumexp_m(f(y_nm) - log q(y_nm)) - log M - Σ_m r_nm f(y_nm),   m = 1..M
        r_nm = p(y_nm) / (M q(y_nm))                        as published
        r_nm = softmax_m(log p(y_nm) - log q(y_nm))         with ``self_normalize``

    A constant c added to all f of one target changes the published form by c (1 - Σ_m r_nm), which
    is zero only in expectation, and does not change the self-normalised form.

    Source: Gustafsson et al., BMVC 2020 (arXiv:2005.01698), KLD-IS.

    Args:
        log_f: (N, M) unnormalised log-densities f at the samples, M ≥ 1.
        log_q: (N, M) log-densities of the proposal at the same points, in nats.
        log_p: (N, M) log-densities of the label, in nats. A ratio p/q beyond e^40 counts as e^40.
        self_normalize: let the weights of the label sum to one.
        valid: (N, M) bool, False for padded samples, which then do not exist: M counts the others.
            Where no sample is left, L is 0.
    """
    _check_same_shape(log_f=log_f, log_q=log_q, log_p=log_p)
    log_f, log_q, log_p = _at_least_float32(log_f, log_q, log_p)
    log_ratio = log_p - log_q
    exists = None if valid is None else valid.to(torch.bool)
    if exists is not None:
        # The smallest valid f, because padding may hold any value and must not set the scale.
        least = log_f.detach().where(exists, torch.inf).amin(1, keepdim=True)
        log_f = log_f.where(exists, least.where(least.isfinite(), 0))
        log_q, log_ratio = log_q.where(exists, 0), log_ratio.where(exists, -torch.inf)
    # The loss does not depend on a constant added to f; this one makes f small.
    shift = log_f.detach().amax(1, keepdim=True)
    centred = log_f - shift
    log_z = log_mean_exp(centred - log_q, exists)
    if self_normalize:
        if exists is not None:
            log_ratio = log_ratio.where(exists.any(1, keepdim=True), 0)
        return log_z - (log_ratio.softmax(1) * centred).sum(1)
    ratio = log_ratio.clamp(max=_MAX_LOG_RATIO).exp()
    remainder = shift.squeeze(1) * (1 - masked_mean(ratio, exists))
    return log_z - masked_mean(ratio * centred, exists) + remainder


@weighted
def mcmc_loss(
    log_f_target: Tensor,
    log_f_samples: Tensor,
    *,
    valid: Tensor | None = None,
    **weighting: Unpack[Weighting],
) -> Tensor:
    """Maximum likelihood with samples of the model: its gradient is correct, its value is not.

        L_n = mean_m f(x_n, y_nm) - f(x_n, y_n),    y_nm ~ p(. | x_n) and constant,   m = 1..M

    Source: Gustafsson et al., BMVC 2020 (arXiv:2005.01698), ML-MCMC.

    Args:
        log_f_target: (N,) f at the targets.
        log_f_samples: (N, M) f at the samples, M ≥ 1.
        valid: (N, M) bool, False for samples that do not exist, such as chains that diverged. The
            mean is that of the others; where there is none, L_n is 0.
    """
    if log_f_samples.dim() != 2 or log_f_samples.shape[:1] != log_f_target.shape:
        raise ValueError(
            f"log_f_target {tuple(log_f_target.shape)} and log_f_samples "
            f"{tuple(log_f_samples.shape)} must be (N,) and (N, M)."
        )
    log_f_target, log_f_samples = _at_least_float32(log_f_target, log_f_samples)
    return masked_mean(log_f_samples - log_f_target.unsqueeze(1), valid)


@weighted
def score_matching_loss(grad: Tensor, trace: Tensor, **weighting: Unpack[Weighting]) -> Tensor:
    """Score matching: L_n = tr ∇²_y f(x_n, y_n) + ½ ‖∇_y f(x_n, y_n)‖².

    Source: Hyvärinen, JMLR 2005, Theorem 1; Gustafsson et al., BMVC 2020 (arXiv:2005.01698).

    Args:
        grad: (N, D) gradients of f at the targets, encoded coordinates.
        trace: (N,) traces of the Hessian there, or unbiased estimates of them.
    """
    if grad.dim() != 2 or grad.shape[:1] != trace.shape:
        raise ValueError(
            f"grad {tuple(grad.shape)} and trace {tuple(trace.shape)} must be (N, D) and (N,)."
        )
    grad, trace = _at_least_float32(grad, trace)
    return trace + 0.5 * grad.square().sum(1)


@weighted
def dsm_loss(
    grad: Tensor,
    noise: Tensor,
    sigma: float | Sequence[float] | Tensor,
    *,
    scale_by_sigma: bool = False,
    **weighting: Unpack[Weighting],
) -> Tensor:
    """Denoising score matching.

        L_n = mean_m Σ_d s_d (∇f(ỹ_nm)_d + ε_nmd / σ_d²)²,   ỹ_nm = y_n + ε_nm,  ε ~ N(0, diag σ²)

    with s = 1 as published (no ½), or s = σ², which has the same minimiser p ∗ N(0, diag σ²) but
    the value D for a constant f, where the published form has Σ_d σ_d^-2.

    Source: Vincent, Neural Computation 2011; Gustafsson et al., BMVC 2020 (arXiv:2005.01698).

    Args:
        grad: (N, M, D) gradients of f at the noisy targets, encoded coordinates, M ≥ 1.
        noise: (N, M, D) ε, noisy target minus target.
        sigma: σ, a number or (D,), positive.
        scale_by_sigma: s = σ².
    """
    if grad.dim() != 3 or grad.shape != noise.shape or grad.shape[1] == 0:
        raise ValueError(
            f"grad {tuple(grad.shape)} and noise {tuple(noise.shape)} must both be (N, M, D), "
            "M ≥ 1."
        )
    grad, noise = _at_least_float32(grad, noise)
    sigma = torch.as_tensor(sigma, dtype=grad.dtype, device=grad.device)
    residual = grad + noise / sigma.square()
    if scale_by_sigma:
        residual = sigma * residual
    return residual.square().sum(2).mean(1)


@weighted
def proposal_kl_loss(
    log_f: Tensor, log_q: Tensor, *, valid: Tensor | None = None, **weighting: Unpack[Weighting]
) -> Tensor:
    """A surrogate whose gradient in φ is that of KL(p ‖ q_φ), self-normalised (Result 1).

        L_n = logsumexp_m(f(y_nm) - log q_φ(y_nm)) - log M,    y_nm ~ q_φ and constant,   m = 1..M
        ∇_φ L_n = -Σ_m w_nm ∇_φ log q_φ(y_nm),    w_nm = softmax_m(f(y_nm) - log q_φ(y_nm))

    Its value estimates log Z, not the KL. The samples must carry no gradient: reparameterised, the
    same expression is a bound on log Z, whose gradient tends to zero and has the wrong direction.

    Source: Gustafsson et al., AISTATS 2022 (arXiv:2110.11948), Result 1 and J_KL.

    Args:
        log_f: (N, M) unnormalised log-densities f at the samples, detached here; M ≥ 1.
        log_q: (N, M) log q_φ at the same points, in nats, with the graph to φ.
        valid: (N, M) bool, False for padded samples, which then do not exist: M counts the others.
            Where no sample is left, L is 0.
    """
    _check_same_shape(log_f=log_f, log_q=log_q)
    log_f, log_q = _at_least_float32(log_f.detach(), log_q)
    return log_mean_exp(log_f - log_q, valid)


@weighted
def mdn_teacher_loss(
    log_f: Tensor, log_q: Tensor, log_q_target: Tensor, **weighting: Unpack[Weighting]
) -> Tensor:
    """Loss of a mixture density network that learns equally from data and from an energy model.

        L_n = ½ J_KL,n - ½ log q_φ(y_n | x_n)

    Source: Gustafsson et al., AISTATS 2022 (arXiv:2110.11948), MDN with an EBM as teacher.

    Args:
        log_f: (N, M) f of the teacher at samples of q_φ, detached here; M ≥ 1.
        log_q: (N, M) log q_φ at the same points, in nats, with the graph to φ.
        log_q_target: (N,) log q_φ at the targets, in nats, with the graph to φ.
    """
    (log_q_target,) = _at_least_float32(log_q_target)
    return 0.5 * proposal_kl_loss(log_f, log_q, reduction="none") - 0.5 * log_q_target


def _at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All tensors in the dtype of the first, or in float32 if that is narrower."""
    dtype = at_least_float32(tensors[0].dtype)
    return tuple(t.to(dtype) for t in tensors)


def _check_same_shape(*, positive_first: bool = False, **tensors: Tensor) -> None:
    shapes = {tuple(t.shape) for t in tensors.values()}
    (shape, *others) = shapes
    if others or len(shape) != 2 or shape[1] == 0:
        named = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        wanted = "(N, 1+M), the positive in column 0" if positive_first else "(N, M), M ≥ 1"
        raise ValueError(f"{named} must all be {wanted}.")
