"""The steps of a fit, each of which takes its result from the folder if it is there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import set_random_seed

from ...files import read_json, write_json
from ...models.detectors.trunk_init import copy_trunk_from_box_head
from ..trained_detector import load_detector
from .clock import Clock
from .compared import Compared
from .data import FitData
from .folder import SETTINGS
from .judging import Judging, judge_rows
from .kind import Kind
from .page import table, write_page
from .plan import GB, Measured, Plan, make_plan, measure
from .progress import Progress
from .results import circumstances, facts, save_model, tuned_settings
from .rivals import rival_boxes
from .training import HeadTraining
from .tuning import Tuned, tune, tuned_methods
from .verdict import verdict
from .views import Batches

__all__ = ["Steps", "planned_seconds"]

PICTURES = 6
PLAN = "plan.json"


def planned_seconds(folder: Path) -> float | None:
    """The limit for which a fit in a folder is planned; None if none has begun."""
    limit = (read_json(folder / PLAN) or {}).get("limit")
    # Earlier versions, and calls that had no plan yet, have the minutes of the first call alone.
    minutes = (read_json(folder / SETTINGS) or {}).get("minutes")
    return limit if limit is not None or minutes is None else 60 * minutes


class Steps:
    """The steps of one call of :func:`~ebm_mmdet.apis.fit`.

    Args:
        kind: of the boxes.
        cfg: config with the energy head, from ``add_energy_head``.
        data: the three parts of the data.
        model: the wrapper with the detector's weights.
        folder: folder of the results.
        clock: clock of the fit, with its limit.
        seed: seed of training, order and bootstrap.
        max_iters: most iterations of the training.
        about_data: arguments of ``kind.write_config``, ``residuals`` among them.
        say: receives lines about what is done.
    """

    def __init__(
        self,
        kind: Kind,
        cfg: Config,
        data: FitData,
        model: Any,
        folder: Path,
        clock: Clock,
        seed: int,
        max_iters: int,
        about_data: Mapping,
        say: Callable[[str], None],
    ) -> None:
        self.kind, self.about_data = kind, dict(about_data)
        self.cfg, self.data, self.model, self.folder = cfg, data, model, folder
        self.clock, self.seed, self.max_iters, self.say = clock, seed, max_iters, say
        self.num_classes, self.max_dets = cfg.model.energy_head.num_classes, data.max_dets

    def run(self, config: str, checkpoint: Path, stem: str, cache_gb: float) -> dict:
        """All steps; returns the result of the fit."""
        plan = self._plan(cache_gb)
        training = self._train(plan, cache_gb)
        tuned = self._tune(plan, training.heads)
        judging = self._judge(plan, training.heads, tuned)
        return self._leave(plan, training, tuned, judging, config, checkpoint, stem)

    def _plan(self, cache_gb: float) -> Plan:
        path = self.folder / PLAN
        stored, before = read_json(path), planned_seconds(self.folder)
        if before not in (None, self.clock.limit):
            self.say(
                f"{self.clock.limit / 60:g} minutes instead of {before / 60:g}, of which "
                f"{self.clock.left() / 60:.1f} are left"
            )
        if stored is None:
            measured = measure(self.kind, self.model, self.data)
            plan = make_plan(measured, self.data, self.clock.left(), cache_gb)
        else:
            measured, plan = Measured(**stored["measured"]), Plan(**stored["plan"])
            if before not in (None, self.clock.limit):
                seconds = max(plan.seconds + self.clock.limit - before, 0.0)
                plan = make_plan(measured, self.data, seconds, cache_gb)
        now = dict(measured=vars(measured), plan=plan.to_dict(), limit=self.clock.limit)
        if now != stored:
            write_json(path, now)
        self.say(plan.sentence(measured, self.data, cache_gb, self.kind.noun))
        return plan

    def _train(self, plan: Plan, cache_gb: float) -> HeadTraining:
        set_random_seed(self.seed)
        heads = self._new_heads()
        training = HeadTraining(
            heads,
            self.cfg.optim_wrapper,
            self.folder / "training.pth",
            self.max_iters,
            self.seed,
        )
        if training.finished:
            self.say(
                f"trained already, {training.iteration} iterations"
                + (
                    f" of {self.max_iters}: the time for them was over, and a longer training "
                    "takes a new --out-dir"
                    if training.iteration < self.max_iters
                    else ""
                )
            )
            return training
        progress = Progress("computing features", self.say, self.clock)
        cache_bytes = cache_gb * GB if plan.fits_in_cache else 0.0
        batches = Batches(
            lambda index: self.kind.view(self.model, self.data, index),
            self.data.indices,
            cache_bytes,
            plan.cache_s,
            self.clock,
            progress,
        )
        if batches.cached:
            self.say(f"{len(batches.cache)} augmented {self.kind.noun}s in memory")
        # Features that an interrupted call had computed take time again, at the training's expense.
        others = plan.tune_s + plan.judge_s + plan.end_s
        seconds = training.seconds + max(self.clock.left() - others, 0.0)
        progress = Progress("training", self.say, self.clock)
        training.run(batches.draw, seconds, self.clock, progress)
        losses = {name: [round(x, 3) for x in each[-1:]] for name, each in training.losses.items()}
        self.say(f"trained {training.iteration} iterations; last losses {losses}")
        return training

    def _new_heads(self) -> dict[str, torch.nn.Module]:
        settings = self.cfg.model.energy_head
        energy = MODELS.build(copy.deepcopy(settings))
        heads = dict(energy=energy, l1=self.kind.regressor(settings, rival_boxes(settings)))
        for head in heads.values():
            copy_trunk_from_box_head(self.model.detector, head)
            head.to(next(self.model.parameters()).device)
        return heads

    def _tune(self, plan: Plan, heads: Mapping[str, torch.nn.Module]) -> Tuned:
        path = self.folder / "tuning.json"
        stored = read_json(path)
        if stored is not None:
            self.say("tuned already")
            return Tuned(**stored)
        rest = plan.judge_s + plan.end_s
        # More than planned, if the iterations have ended the training before its time.
        until = self.clock.used() + max(self.clock.left() - rest, 0.0)
        compared = Compared(self.folder / "compared.json", self.clock)
        progress = Progress("tuning", self.say, self.clock)
        images, positions = [], []
        for position in range(compared.images or plan.tune_images):
            late = images and self.clock.used() > until - plan.tune_s / 2
            if late and compared.images is None:  # else settings are compared on so many images
                break
            found = self.kind.detect(self.model, self.data.tune[position], self.max_dets)
            images.append(_on_cpu(found))
            positions.append(position)
            progress(0.0)
        compared.begin(len(images))
        tuned = tune(
            self.kind,
            self.model,
            dict(heads),
            images,
            self.data.tune,
            positions,
            self.about_data["residuals"],
            _plain(self.cfg.model.refiner),
            self.num_classes,
            max(until - self.clock.used(), 0.0),
            self.clock,
            progress,
            self.max_dets,
            compared,
        )
        write_json(path, tuned.to_dict())
        self.clock.save()
        self.say(
            f"tuned on {tuned.images} {self.kind.noun}s, {tuned.tried} settings: AP "
            f"{100 * tuned.ap_before:.2f} before, {100 * tuned.ap_after:.2f} after, with "
            f"{tuned.refiner}, min_score={tuned.min_score}"
        )
        return tuned

    def _judge(self, plan: Plan, heads: Mapping[str, torch.nn.Module], tuned: Tuned) -> Judging:
        judging = Judging(
            self.folder / "judging",
            self.kind,
            self.data.judge,
            self.num_classes,
            self.seed,
            self.max_dets,
        )
        seconds = max(self.clock.left() - plan.end_s, 0.0)
        progress = Progress("judging", self.say, self.clock)
        methods = tuned_methods(self.kind, dict(heads), tuned)
        judging.run(self.model, methods, seconds, self.clock, progress)
        self.say(f"judged on {len(judging.results)} of {len(self.data.judge)} {self.kind.noun}s")
        return judging

    def _leave(
        self,
        plan: Plan,
        training: HeadTraining,
        tuned: Tuned,
        judging: Judging,
        config: str,
        checkpoint: Path,
        stem: str,
    ) -> dict:
        rows = judge_rows(judging, 0.6 * plan.end_s, self.seed)
        about = circumstances(self.kind, self.cfg, self.data, judging, training.iteration, tuned)
        found = verdict(rows, about)
        path, weights = self.folder / f"{stem}_ebm.py", self.folder / f"{stem}_ebm.pth"
        if not path.exists():  # else an interrupted call has written it, with the same settings
            self.kind.write_config(
                config,
                checkpoint,
                path,
                max(training.iteration, 1),
                {**self.kind.delivered, **tuned_settings(tuned, self.kind.noun)},
                **self.about_data,
            )
        self.model.energy_head = training.heads["energy"]
        classes = save_model(self.model, self.data.judge.dataset.metainfo, weights)
        load_detector(Config.fromfile(path), weights)  # as a user will
        method = tuned_methods(self.kind, training.heads, tuned)[-1]
        positions = [each["position"] for each in judging.results[:PICTURES]]
        pictures = self.kind.write_pictures(
            self.folder / "pictures",
            self.model,
            method,
            self.data.judge,
            positions,
            classes,
            self.max_dets,
        )
        result = dict(
            pays=found.pays,
            sentence=found.sentence,
            reasons=found.reasons,
            rows=rows,
            tuned=tuned.to_dict(),
            plan=plan.to_dict(),
            config=str(path),
            checkpoint=str(weights),
            iterations=training.iteration,
        )
        write_page(
            self.folder / "page.md",
            self.kind,
            rows,
            found,
            facts(self.kind, self.cfg, self.data, self.model, self.clock, training, tuned, judging),
            self.kind.commands(path, weights, self.cfg),
            pictures,
        )
        self.clock.save()
        write_json(self.folder / "result.json", result)  # last: it says that all is there
        self.say(f"{table(rows, self.kind)}\n\n{found.sentence}")
        self.say(f"{path}, {weights} and {self.folder / 'page.md'} are written")
        return result


def _plain(value):
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _on_cpu(image):
    return image._replace(
        maps=tuple(level.cpu() for level in image.maps), sample=image.sample.cpu()
    )
