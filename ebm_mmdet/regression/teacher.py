"""A mixture density network that learns from the data and from an energy-based model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from mmdet.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from torch import Tensor, nn

from ..energy import nce_loss, proposal_kl_loss
from ..energy.importance import importance_diagnostics
from ..energy.log_density import evaluate
from .data_sample import RegressionDataSample
from .heads import EBMRegressionHead, MixtureRegressionHead
from .regressor import ImageRegressor, report_padding

__all__ = ["TeacherOptimWrapperConstructor", "TeacherRegressor"]


@MODELS.register_module()
class TeacherRegressor(BaseModel):
    r"""Two complete regressors: a mixture (the student), and an energy taught by its samples.

        y_1..y_M ~ q_φ(· | x), constant;   u_m = f(y_m) - log q_φ(y_m);   y_0 = y*
        loss_energy  = J_NCE = logsumexp_{m=0..M} u_m - u_0                        q constant
        loss_student = w (logsumexp_{m=1..M} u_m - log M) - v log q_φ(y*)          f constant

    Both losses come from one forward pass, so the student never sees the updated f. No parameter
    gets gradients from both losses: the first trains the teacher with its backbone, the second the
    student with its own. With one optimiser for everything, training is therefore the same as with
    two, except for what acts on all gradients together, such as clipping by their norm.

    For two optimisers see :class:`TeacherOptimWrapperConstructor`. In distributed training set
    ``model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')`` then.

    Predictions are those of the student.

    Source: Gustafsson et al., "Learning Proposals for Practical Energy-Based Regression", AISTATS
    2022 (arXiv:2110.11948), MDN with an EBM as teacher; w = v = ½ there.

    Args:
        student: config of an ``ImageRegressor`` with a ``MixtureRegressionHead``.
        teacher: config of an ``ImageRegressor`` with an ``EBMRegressionHead`` without proposal.
        num_noise: M, samples per image.
        kl_weight: w, not negative.
        nll_weight: v, not negative. While ``ProposalWarmUpHook`` is active, w = 0 and v = 1.
        data_preprocessor: config of the common preprocessor; those of the two are not used.
        init_cfg: mmengine's.

    Raises:
        TypeError: a head is of another type.
        ValueError: the two codecs differ, the teacher has a proposal, or a number is outside its
            range.
    """

    student: ImageRegressor
    teacher: ImageRegressor

    def __init__(
        self,
        student: dict,
        teacher: dict,
        num_noise: int = 1024,
        kl_weight: float = 0.5,
        nll_weight: float = 0.5,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if num_noise < 1 or kl_weight < 0 or nll_weight < 0:
            raise ValueError(
                f"num_noise={num_noise} must be 1 or more, and kl_weight={kl_weight} and "
                f"nll_weight={nll_weight} must not be negative."
            )
        self.student, self.teacher = MODELS.build(student), MODELS.build(teacher)
        heads = self.student.head, self.teacher.head
        for name, head, kind in zip(
            ("student", "teacher"), heads, (MixtureRegressionHead, EBMRegressionHead)
        ):
            if not isinstance(head, kind):
                raise TypeError(
                    f"the head of the {name} is a {type(head).__name__}; expected a {kind.__name__}"
                )
        if heads[1].proposal is not None:
            raise ValueError("the teacher's proposal is the student: remove its `proposal`.")
        if heads[0].codec.extra_repr() != heads[1].codec.extra_repr():
            raise ValueError(
                "student and teacher need the same codec, because f and q are densities of the "
                f"same coordinates; got {heads[0].codec} and {heads[1].codec}."
            )
        self.num_noise, self.kl_weight, self.nll_weight = num_noise, kl_weight, nll_weight
        self.proposal_warm_up = False
        """Whether the student learns from the labels alone; ``ProposalWarmUpHook`` sets it."""

    def share_statistics(self) -> None:
        """Let both codecs have the same mean and standard deviation of the labels.

        One of the two may come from a checkpoint, such as a student that was trained before, and
        the other has those of the ranges: it then takes over the first one's.
        ``FitTargetCodecHook`` calls this.

        Raises:
            ValueError: both have some, and they differ.
        """
        student, teacher = (_unwrapped(model).head.codec for model in (self.student, self.teacher))
        if student.fitted != teacher.fitted:
            known, new = (student, teacher) if student.fitted else (teacher, student)
            new.copy_statistics(known)
        elif student.extra_repr() != teacher.extra_repr():
            raise ValueError(
                "the labels of student and teacher are standardised in different ways, and f and "
                f"q would be densities of different numbers; got {student} and {teacher}, perhaps "
                "from different checkpoints. Load one of the two, or both from one training."
            )

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[RegressionDataSample] | None = None,
        mode: str = "tensor",
    ) -> Tensor | dict[str, Tensor] | list[RegressionDataSample]:
        """As in ``ImageRegressor``: features and predictions are the student's.

        The losses are ``loss_energy`` and ``loss_student``, with ``energy_<name>`` for the log.
        """
        if mode == "loss":
            report_padding(self, data_samples or [])
            return self._losses(inputs, data_samples or [])
        return self.student(inputs, data_samples, mode=mode)

    def _losses(
        self, inputs: Tensor, data_samples: Sequence[RegressionDataSample]
    ) -> dict[str, Tensor]:
        student: MixtureRegressionHead = _unwrapped(self.student).head
        teacher: EBMRegressionHead = _unwrapped(self.teacher).head
        q = student.density(self.student(inputs, mode="tensor"))
        fn = teacher.log_density_fn(self.teacher(inputs, mode="tensor"))
        targets = student.encoded_targets(data_samples).unsqueeze(1)
        points = torch.cat([targets, q.draw(self.num_noise).to(targets)], dim=1)
        log_f, log_q = evaluate(fn, points), q.log_prob(points)
        constant_q, count = log_q.detach(), max(len(targets), 1)
        w, v = (0.0, 1.0) if self.proposal_warm_up else (self.kl_weight, self.nll_weight)
        kl = proposal_kl_loss(log_f[:, 1:], log_q[:, 1:])
        diagnostics = importance_diagnostics(log_f[:, 1:], constant_q[:, 1:])
        return {
            "loss_energy": nce_loss(log_f, constant_q),
            "loss_student": w * kl - v * log_q[:, 0].sum() / count,
            "student_nll": -constant_q[:, 0].sum() / count,
            **{f"energy_{name}": value for name, value in diagnostics.items()},
        }

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One step with one optimiser, or with one each in an ``OptimWrapperDict``.

        Raises:
            KeyError: the dictionary has not the keys ``student`` and ``teacher``.
        """
        if not isinstance(optim_wrapper, OptimWrapperDict):
            return super().train_step(data, optim_wrapper)
        if set(optim_wrapper.keys()) != {"student", "teacher"}:
            raise KeyError(
                f"optimisers {sorted(optim_wrapper.keys())} for a TeacherRegressor; expected "
                "'student' and 'teacher'."
            )
        with ExitStack() as contexts:
            for name, wrapper in optim_wrapper.items():
                contexts.enter_context(wrapper.optim_context(getattr(self, name)))
            data = self.data_preprocessor(data, True)
            losses = self._run_forward(data, mode="loss")
        _, log = self.parse_losses(losses)
        optim_wrapper["teacher"].update_params(losses["loss_energy"])
        optim_wrapper["student"].update_params(losses["loss_student"])
        return log


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TeacherOptimWrapperConstructor:
    """One optimiser each for the student and the teacher.

        optim_wrapper = dict(
            constructor='TeacherOptimWrapperConstructor',
            student=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3)),
            teacher=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3)))

    Args:
        optim_wrapper_cfg: the two configs, by name.
        paramwise_cfg: must be empty; it belongs into each of the two.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if paramwise_cfg or set(optim_wrapper_cfg) != {"student", "teacher"}:
            raise ValueError(
                f"optim_wrapper has {sorted(optim_wrapper_cfg)} and paramwise_cfg={paramwise_cfg}; "
                "expected student=dict(...) and teacher=dict(...), each with its own paramwise_cfg."
            )
        self.configs = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Build the optimisers of a ``TeacherRegressor``."""
        module = _unwrapped(model)
        return OptimWrapperDict(
            **{
                name: build_optim_wrapper(getattr(module, name), dict(config))
                for name, config in self.configs.items()
            }
        )


def _unwrapped(module: nn.Module):
    return module.module if is_model_wrapper(module) else module
