#!/usr/bin/env python
"""One config of each family of mmdet's model zoo, with an energy head: does it train, predict, and keep what it must?

    python tools/lab/zoo.py --out work_dirs/zoo                       # all families, some 15 s each on one core
    python tools/lab/zoo.py --out work_dirs/zoo --families yolox ssd  # some
    python tools/lab/zoo.py --out work_dirs/zoo --page                # the table, into docs/zoo.md

Each family is one process with a limit on time and memory. Its result is a file in --out, so that the same command goes on
where it was interrupted. Weights are random and images are noise: what is tested is whether things fit, not what they gain.
"""  # noqa: E501

from __future__ import annotations

import argparse
import copy
import multiprocessing
import re
import resource
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import mmdet
import torch
import yaml
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger

import ebm_mmdet  # noqa: F401  (registers our types)
from ebm_mmdet.apis import add_energy_head
from ebm_mmdet.files import fill_section, markdown_table, read_json, write_json
from ebm_mmdet.models.detectors.dry_run import dry_run

__all__ = ["families", "main", "table", "try_config"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "zoo.md"
ZOO = Path(mmdet.__file__).parent / ".mim" / "configs"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in Python takes seconds
BOXES = 20
"""Boxes that a detector keeps, so that no mask head works for minutes."""
SMALLEST_FOR_DEFORMABLE = 512
"""Pixels of the image where a head has deformable convolutions, which refuse a map smaller than
their kernel: at stride 128 this one has 4 x 4 cells."""
STEP = 1e-2
"""Step of the refiner: large, because a head without training has a flat f."""


def families(zoo: Path = ZOO) -> dict[str, str]:
    """Name of each family, and a config of it: the first of its ``metafile.yml``, or its first file.

    Args:
        zoo: folder with one folder for each family.
    """  # noqa: E501
    found = {}
    for folder in sorted(zoo.iterdir()):
        configs = sorted(each.name for each in folder.glob("*.py") if each.name != "__init__.py")
        if folder.name in ("_base_", "common") or not configs:  # parts of other configs
            continue
        metafile = folder / "metafile.yml"
        content = yaml.load(metafile.read_text("utf-8"), LOADER) if metafile.exists() else None
        models = content.get("Models", ()) if isinstance(content, Mapping) else content or ()
        named = [Path(str(each.get("Config", ""))).name for each in models]
        found[folder.name] = next((name for name in named if name in configs), configs[0])
    return found


def try_config(cfg: Config) -> dict:
    """Wrap a detector, take a training step, predict, and compare with the detector's own boxes.

    Args:
        cfg: config of the detector; weights are not loaded.

    Returns:
        ``strides``, ``in_channels``, ``feature_levels``, ``source``; ``boxes``, the number of the
        predicted ones; ``masks``, whether there are any.

    Raises:
        AssertionError: the wrapper does not keep what it promises.
        Exception: whatever the detector or the wrapper raises.
    """
    _without_weights(cfg.model)
    _find_teacher(cfg.model)
    _few_boxes(cfg.model.get("test_cfg"))
    if cfg.get("train_dataloader") and not cfg.get("test_dataloader"):
        cfg.test_dataloader = copy.deepcopy(cfg.train_dataloader)
    cfg = add_energy_head(cfg)
    step_size = cfg.model.refiner["step_size"]
    cfg.model.refiner["step_size"] = (
        STEP if isinstance(step_size, float) else [STEP] * len(step_size)
    )
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    head = model.energy_head
    classes = cfg.model.energy_head.num_classes
    torch.nn.init.normal_(head.fc_energy.weight, std=1.0)  # else f is flat and no box moves
    _tame(model.detector)
    size = dry_run(model.detector).size  # not every backbone takes any size
    if _has_deformable_head(model.detector):
        size = max(size, SMALLEST_FOR_DEFORMABLE)
    batch = demo_mm_inputs(
        1,
        [(3, size, size)],
        num_items=[3],
        num_classes=max(classes, 2),  # it draws none of label 0
        with_mask=True,
        with_semantic=True,
    )
    for sample in batch["data_samples"]:
        sample.gt_instances.labels %= classes
    frozen = {key: value.clone() for key, value in model.detector.state_dict().items()}
    model.train()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    losses = model.loss(data["inputs"], data["data_samples"])
    loss = sum(value for key, value in losses.items() if key.startswith("loss"))
    loss.backward()
    assert torch.isfinite(loss), f"the loss is {float(loss.detach())}"
    gradients = [each.grad for each in head.parameters() if each.grad is not None]
    assert any((each != 0).any() for each in gradients), "no gradient reaches the energy head"
    assert all(each.grad is None for each in model.detector.parameters()), (
        "gradients reach the detector"
    )
    after = model.detector.state_dict()
    assert all(torch.equal(after[key], value) for key, value in frozen.items()), (
        "the detector has changed"
    )
    return {**_predictions(model, batch), **_values(model, cfg)}


def _values(model, cfg: Config) -> dict:
    head = model.energy_head
    return dict(
        source=list(model.feature_sources),
        strides=list(head.strides),
        in_channels=list(head.in_channels),
        feature_levels=list(head.feature_levels),
        detector=type(model.detector).__name__,
    )


def _predictions(model, batch: Mapping) -> dict:
    """Predict with and without refinement; everything but the boxes must be the same."""
    model.eval()
    refiner, found = model.refiner, []
    with torch.no_grad():
        for each in (None, refiner):
            model.refiner = each
            data = model.data_preprocessor(copy.deepcopy(batch), False)
            torch.manual_seed(0)
            (sample,) = model.predict(data["inputs"], data["data_samples"])
            found.append(sample.pred_instances)
    before, refined = found
    assert len(before) == len(refined), f"{len(before)} boxes before and {len(refined)} after"
    for name in ("scores", "labels", "masks"):
        if name in before:
            same = torch.equal(torch.as_tensor(before[name]), torch.as_tensor(refined[name]))
            assert same, f"{name} have changed"
    moved = int((before.bboxes != refined.bboxes).any(1).sum()) if len(before) else 0
    return dict(boxes=len(before), moved=moved, masks="masks" in before)


def _without_weights(config) -> None:
    """Remove what loads weights from the internet, in all parts of a model's config."""
    if isinstance(config, Mapping):
        for key in ("init_cfg", "pretrained", "checkpoint_config"):
            if config.get(key) is not None:
                config[key] = None
        for key in ("teacher_ckpt",):
            if config.get(key) is not None:
                config[key] = None
        for value in config.values():
            _without_weights(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            _without_weights(value)


def _find_teacher(config) -> None:
    """The teacher's config is named from mmdet's own folder, where this does not run."""
    teacher = config.get("teacher_config")
    if isinstance(teacher, str) and not Path(teacher).exists():
        config["teacher_config"] = str(ZOO.parent / teacher)


def _tame(detector: torch.nn.Module) -> None:
    """Give standardised weights (DetectoRS) the scale that they have before standardisation.

    Loading a checkpoint without ``weight_gamma`` does this. With random weights and frozen
    batch norms each layer would multiply its input by some 20 to 50, up to infinity.
    """
    state = detector.state_dict()
    kept = {k: v for k, v in state.items() if not k.endswith(("weight_gamma", "weight_beta"))}
    if len(kept) < len(state):
        detector.load_state_dict(kept, strict=False)


def _has_deformable_head(detector: torch.nn.Module) -> bool:
    head = getattr(detector, "bbox_head", None)
    return head is not None and any("Deform" in type(each).__name__ for each in head.modules())


def _few_boxes(config) -> None:
    """Keep the best 20 boxes whatever their score: random weights give low ones."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key == "score_thr" and isinstance(value, (int, float)):
                config[key] = 0.0
            elif key == "max_per_img" and isinstance(value, int):
                config[key] = BOXES
            elif key == "nms_pre" and isinstance(value, int):
                config[key] = min(value, 100)
            else:
                _few_boxes(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            _few_boxes(value)


def _run(name: str, config: Path, out: Path, gigabytes: float) -> None:
    """Try a family, in a process of its own; the result becomes a file."""
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    MMLogger.get_current_instance().setLevel("ERROR")
    result = dict(family=name, config=config.name)
    start = time.monotonic()
    try:
        result.update(result="works", **try_config(Config.fromfile(config)))
        if not result["boxes"]:
            result["reason"] = "random weights give no box"
    except MemoryError:
        result.update(result="fails", reason=f"needs more than {gigabytes:g} GB")
    except Exception as error:
        refused = isinstance(error, ValueError) and _raised_by_us(error)
        result.update(result="refused" if refused else "fails", reason=_reason(error))
        result["trace"] = traceback.format_exc()
    result["seconds"] = round(time.monotonic() - start, 1)
    write_json(out, result)


def _raised_by_us(error: BaseException) -> bool:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "ebm_mmdet" in Path(last.filename).parts


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = re.sub(r"(?<![\w.])(/[^/\s]+)+/", "", text)  # no paths of a machine
    return f"{type(error).__name__}: {text[:200]}"


def sweep(
    chosen: Sequence[str], out: Path, minutes: float, gigabytes: float, zoo: Path = ZOO, say=print
) -> list[dict]:
    """Try families that have no file in ``out`` yet, one process after the other.

    Args:
        chosen: names of families.
        out: folder of the results, ``FAMILY.json`` each.
        minutes: time for each family.
        gigabytes: address space for each family.
        zoo: folder with one folder for each family.
        say: receives a line per family.

    Returns:
        The results of the chosen families.
    """
    known = families(zoo)
    fork = multiprocessing.get_context("fork")  # the imports are made once
    results = []
    for name in chosen:
        file = out / f"{name}.json"
        result = read_json(file)
        if result is None:
            config = zoo / name / known[name]
            process = fork.Process(target=_run, args=(name, config, file, gigabytes))
            process.start()
            process.join(60 * minutes)
            if process.is_alive():
                process.kill()
                process.join()
                write_json(file, _ended(name, config, f"takes more than {minutes:g} min"))
            elif not file.exists():
                reason = f"the process ended with code {process.exitcode}"
                write_json(file, _ended(name, config, reason))
            result = read_json(file)
            say(f"{name:24} {result['result']:8} {result.get('reason', '')[:120]}")
        results.append(result)
    return results


def _ended(name: str, config: Path, reason: str) -> dict:
    return dict(family=name, config=config.name, result="fails", reason=reason)


def table(results: Sequence[Mapping]) -> str:
    """The results as a Markdown table, those that work first."""
    order = {"works": 0, "refused": 1, "fails": 2}
    rows = []
    for each in sorted(results, key=lambda one: (order[one["result"]], one["family"])):
        values = ""
        if each["result"] == "works":
            channels = each["in_channels"]
            channels = channels[0] if len(set(channels)) == 1 else channels
            values = f"{' and '.join(each['source'])}: strides {each['strides']}, {channels}"
        reason = each.get("reason", "")
        if each["result"] == "works" and each.get("masks"):
            reason = "; ".join(filter(None, ["masks kept", reason]))
        cells = [each["family"], each["config"], each["result"], values, reason]
        rows.append([str(cell).replace("|", "\\|") for cell in cells])
    return markdown_table(["family", "config", "", "maps and channels", "note"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the sweep and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--families", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--minutes", type=float, default=3.0, help="time for each; default: 3")
    parser.add_argument("--gb", type=float, default=8.0, help="memory for each; default: 8")
    parser.add_argument(
        "--page", type=Path, nargs="?", const=PAGE, metavar="FILE", help="default: docs/zoo.md"
    )
    parser.add_argument("--report", action="store_true", help="run nothing: what is finished")
    args = parser.parse_args(argv)
    known = families()
    unknown = sorted({*(args.families or ())} - known.keys())
    if unknown:
        parser.error(f"--families {unknown[0]}: not in {ZOO}; it has {', '.join(known)}")
    chosen = args.families or list(known)
    register_all_modules()
    torch.set_num_threads(1)
    if args.report:
        chosen = [name for name in chosen if (args.out / f"{name}.json").exists()]
    try:
        results = sweep(chosen, args.out, args.minutes, args.gb)
    except KeyboardInterrupt:
        sys.exit("zoo: interrupted; the same command goes on from here")
    counts = {kind: sum(each["result"] == kind for each in results) for kind in RESULTS}
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    text = f"{len(results)} of {len(known)} families: {said}.\n\n{table(results)}"
    print(text)
    if args.page:
        fill_section(args.page, "zoo", text)


RESULTS = {"works": "work", "refused": "are refused", "fails": "fail"}


if __name__ == "__main__":
    main()
