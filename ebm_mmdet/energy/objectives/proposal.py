"""Training f together with a learned proposal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..contracts import LogDensityFn, Objective, Proposal, ProposalLogDensityFn
from ..importance import importance_diagnostics
from ..log_density import at_least_float32, evaluate
from ..losses import ml_is_loss, nce_loss, proposal_kl_loss
from ..old_names import refuse
from ..reduction import reduce_loss
from .settings import replaced_by_num_noise

__all__ = ["ProposalObjective", "check_residual_objective"]


@refuse("num_samples", replaced_by_num_noise)
@dataclass(frozen=True)
class ProposalObjective:
    """f and a learned proposal q_φ, trained together on one set of samples.

        y_1..y_M ~ q_φ(· | x), constant;   u_m = f(y_m) - log q_φ(y_m);   y_0 = y*
        J_NCE = logsumexp_{m=0..M} u_m - u_0            trains f, q constant
        J_KL  = logsumexp_{m=1..M} u_m - log M          trains φ, f constant
        NLL   = -log q_φ(y*)                            trains φ

        "nce"     L = J_NCE + w J_KL + v NLL
        "ml-is"   L = logsumexp_{m=1..M} u_m - log M - f(y*) + v NLL     both f and φ learn from u

    with w = ``proposal_weight`` and v = ``nll_weight``; in "ml-is" w scales the gradient that φ
    gets from u, but not the value. Since q does not depend on y*, J_NCE has no bias at finite M.

        joint training (the papers)       w = 1, v = 0
        MDN taught by f and by the data   w = v = 1/2: :func:`mdn_teacher_loss`, plus J_NCE for f
        warm-up of φ by the data alone    w = 0, v = 1

    The gradient of J_KL ignores modes that q never samples: start with a broad q, and watch
    ``ess_ratio`` and ``proposal_nll``.

    Source: Gustafsson et al., "Learning Proposals for Practical Energy-Based Regression", AISTATS
    2022 (arXiv:2110.11948).

    Raises:
        ValueError: an argument is outside its range.
    """

    num_noise: int = 127
    """M, samples of the proposal per target; the target itself is scored too."""
    form: Literal["nce", "ml-is"] = "nce"
    """``"nce"``, or ``"ml-is"`` for the joint objective J(θ, φ)."""
    proposal_weight: float = 1.0
    """w, not negative."""
    nll_weight: float = 0.0
    """v, not negative."""

    def __post_init__(self) -> None:
        if self.num_noise < 1:
            raise ValueError(
                f"num_noise={self.num_noise} leaves no sample of the proposal; at least 1 is "
                "needed."
            )
        if self.form not in ("nce", "ml-is"):
            raise ValueError(f"form={self.form!r} is unknown; use 'nce' or 'ml-is'.")
        limit = float("inf")
        if not (0 <= self.proposal_weight < limit and 0 <= self.nll_weight < limit):
            raise ValueError(
                f"proposal_weight={self.proposal_weight} and nll_weight={self.nll_weight} must be "
                "finite and not negative."
            )

    def __call__(
        self,
        log_density_fn: LogDensityFn,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        generator: torch.Generator | None = None,
        proposal: Proposal | None = None,
    ) -> dict[str, Tensor]:
        """Evaluate the objective; ``log_density_fn`` is called once, with (N, 1+M, D).

        Args:
            log_density_fn: f, bound to the features of the N targets.
            targets: (N, D) annotations y*, in the coordinates of the proposal; N may be 0.
            weight: (N,) factor per target.
            avg_factor: divisor that replaces N.
            generator: source of randomness, on the device of ``targets``.
            proposal: q_φ for the N targets, made from features that are detached unless the
                proposal is to train them too; ``log_density_fn.proposal()`` by default.

        Raises:
            TypeError: no proposal is given, and ``log_density_fn`` has none.

        Returns:
            ``loss``: scalar.
            ``accuracy``: share of targets whose f - log q is the largest, in [0, 1].
            ``log_density_gap``: mean of f(target) minus mean f(samples), in nats.
            ``logit_max``: mean of the largest f - log q of a target's samples, in nats.
            ``ess_ratio``: mean effective sample size divided by M, in (0, 1].
            ``log_z``: mean estimate of log Z, in nats, which is also the value of J_KL.
            ``proposal_nll``: mean of -log q(y*), in nats.
        """
        if proposal is None:
            if not isinstance(log_density_fn, ProposalLogDensityFn):
                raise TypeError(
                    f"{type(self).__name__} needs a learned proposal, and "
                    f"{type(log_density_fn).__name__} has no method proposal(); use a head with a "
                    "proposal (ProposalEBMBBoxHead), or pass proposal=."
                )
            proposal = log_density_fn.proposal()
        targets = targets.detach()
        targets = targets.to(at_least_float32(targets.dtype)).unsqueeze(1)
        samples = proposal.draw(self.num_noise, generator).detach().to(targets)
        points = torch.cat([targets, samples], dim=1)
        log_f, log_q = evaluate(log_density_fn, points), proposal.log_prob(points)
        constant_q = log_q.detach()
        if self.form == "nce":
            loss = nce_loss(log_f, constant_q, reduction="none")
            kl = proposal_kl_loss(log_f[:, 1:], log_q[:, 1:], reduction="none")
            loss = loss + self.proposal_weight * kl
        else:
            scaled_q = constant_q + self.proposal_weight * (log_q - constant_q)
            loss = ml_is_loss(log_f, scaled_q, reduction="none")
        loss = loss - self.nll_weight * log_q[:, 0]

        log_f, count = log_f.detach(), max(len(targets), 1)
        return {
            "loss": reduce_loss(loss, weight, avg_factor=avg_factor),
            "accuracy": ((log_f - constant_q).argmax(1) == 0).sum() / count,
            "log_density_gap": (log_f[:, 0] - log_f[:, 1:].mean(1)).sum() / count,
            **importance_diagnostics(log_f[:, 1:], constant_q[:, 1:]),
            "proposal_nll": -constant_q[:, 0].sum() / count,
        }


def check_residual_objective(objective: Objective) -> None:
    """Refuse objectives that do not train f = log q + g, a correction g of a proposal q.

    J_KL would pull q towards an energy that contains q, so q has to learn from the labels alone.

    Raises:
        ValueError: the objective is not a ``ProposalObjective`` with ``form='nce'``,
            ``proposal_weight=0`` and a positive ``nll_weight``.
    """
    remedy = "q learns from the labels alone, because f contains it; use form='nce', "
    remedy += "proposal_weight=0, nll_weight=1."
    if not isinstance(objective, ProposalObjective):
        raise ValueError(f"residual=True with {type(objective).__name__}: {remedy}")
    if objective.form != "nce" or objective.proposal_weight or not objective.nll_weight:
        raise ValueError(
            f"residual=True with form={objective.form!r}, "
            f"proposal_weight={objective.proposal_weight} and nll_weight={objective.nll_weight}: "
            f"{remedy}"
        )
