"""Train one stage of the demo with mmengine's runner, quietly and resumably."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ebm_mmdet.datasets import use_checked_annotations
from ebm_mmdet.engine import ReadableCheckpointHook, find_resumable_checkpoint


class ProgressHook(Hook):
    """Prints the progress of a training every few seconds.

    Args:
        name: Name of the stage.
        say: Prints a line.
        period: Seconds between two lines.
    """

    def __init__(self, name: str, say: Callable[[str], None], period: float = 15.0) -> None:
        self.name, self.say, self.period = name, say, period

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self.start = self.last = time.monotonic()
        self.first_iter = runner.iter

    def after_train_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Print a line if the period is over."""
        now, done = time.monotonic(), runner.iter + 1
        if now - self.last < self.period or done == runner.max_iters:
            return
        self.last = now
        left = (now - self.start) / (done - self.first_iter) * (runner.max_iters - done)
        loss = float(outputs["loss"])
        self.say(
            f"  {self.name}: {done} of {runner.max_iters} iterations, loss {loss:.2f}, "
            f"about {left:.0f} s left"
        )


def train_stage(cfg: Config, name: str, say: Callable[[str], None]) -> Path:
    """Train according to a config, unless that is done; continue an interrupted run.

    Args:
        cfg: Config with its own `work_dir`, trained by iterations or by epochs.
        name: Name of the stage, for the screen.
        say: Prints a line.

    Returns:
        Path of the last checkpoint.
    """
    by_iterations = "max_iters" in cfg.train_cfg
    length = cfg.train_cfg.max_iters if by_iterations else cfg.train_cfg.max_epochs
    final = Path(cfg.work_dir) / f"{'iter' if by_iterations else 'epoch'}_{length}.pth"
    if final.is_file():
        say(f"{name}: trained already ({final})")
        return final
    start = time.monotonic()
    checkpoint = find_resumable_checkpoint(cfg.work_dir)
    if checkpoint is not None:
        say(f"{name}: going on from {checkpoint}")
        cfg.load_from, cfg.resume = str(checkpoint), True
    batch = cfg.train_dataloader.batch_size
    say(f"{name}: {length} {f'iterations of {batch} images' if by_iterations else 'epochs'}")
    # The demo evaluates at the end in its own way; with these, the runner would evaluate too.
    cfg = copy.deepcopy(cfg)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    use_checked_annotations()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(ReadableCheckpointHook())
    runner.register_hook(ProgressHook(name, say), priority="VERY_LOW")
    runner.train()
    say(f"  {name}: done in {time.monotonic() - start:.0f} s")
    return final
