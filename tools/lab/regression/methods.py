"""The tasks and methods of the study, and the config of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

__all__ = ["GENERATED", "METHODS", "REAL", "TASKS", "Method", "run_config"]

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "regression"

GENERATED = ("cells", "road", "head", "rings")
"""Tasks whose true density is known."""
REAL = ("bbbc039_count", "digits_angle")
"""Tasks with real images."""
TASKS = {
    **{task: CONFIGS / "demo" / task for task in GENERATED},
    **{task: CONFIGS / task for task in REAL},
}
"""Name of each task, and the beginning of the paths of its configs."""


@dataclass(frozen=True)
class Method:
    """A row, or several, of the tables."""

    label: str
    config: str
    """End of the config's name."""
    changes: Mapping[str, object] = field(default_factory=dict)
    """Changes of the config, by dotted key."""
    points: Sequence[str] = ("median",)
    """Point predictions with a row each; those of the other methods are measured too."""


_WARM_UP = {"custom_hooks.1.epochs": 2}  # of ProposalWarmUpHook
METHODS = {
    "direct": Method("direct, L2", "direct", points=("mean",)),
    "gaussian": Method("Gaussian", "gaussian"),
    "mdn": Method("mixture, K = 4", "mdn"),
    "mdn8": Method("mixture, K = 8", "mdn", {"model.head.num_components": 8}),
    "softmax": Method("softmax", "softmax"),
    "ebm": Method("energy, fixed noise", "ebm"),
    "ebm_mdn": Method("energy, learned proposal", "ebm_mdn", points=("mean", "median", "mode")),
    "ebm_residual": Method(
        "energy on top of a mixture", "ebm_residual", points=("mean", "median", "mode")
    ),
    "mdn_teacher": Method("mixture, K = 4, taught by an energy", "mdn_teacher"),
    "mdn_teacher_warm": Method("the same, after 2 epochs of NLL alone", "mdn_teacher", _WARM_UP),
}


def run_config(
    task: str, method: str, seed: int, changes: Mapping[str, object] | None = None
) -> Config:
    """The config of a run.

    Args:
        task: name of a task.
        method: name of a method.
        seed: seed of initial weights, order and noise; the images stay the same.
        changes: further changes, by dotted key.

    Raises:
        KeyError: the task or method is unknown.
    """
    chosen = METHODS[method]
    cfg = Config.fromfile(f"{TASKS[task]}_{chosen.config}.py")
    cfg.merge_from_dict({**chosen.changes, **(changes or {})})
    cfg.randomness = dict(seed=seed)
    return cfg
