#!/usr/bin/env python
"""Convert the reference implementation's checkpoints of ROCK, and of its plain SSD, to those of this project.

    tools/model_converters/rock_to_ebm_mmdet.py rock_trained.pt work_dirs/rock_nyuv2.pth
    tools/model_converters/rock_to_ebm_mmdet.py baseline_ssd_trained.pt work_dirs/ssd_nyuv2.pth

The files are those of github.com/vita-epfl/rock-pytorch: its two trained models, or what its training wrote. The first is
for configs/rock/rock_ssd_r50_480x640_30k_nyuv2.py, the second for configs/rock/ssd_r50_480x640_30k_nyuv2.py; the tool
recognises which of the two a file is. A file that was trained on some of the tasks (--aux_tasks) has the layers of all of
them; those that no batch has run through are left out, and the tool names the config for the rest.

Changes besides names:

    box outputs       rows (coordinate, prior) -> (prior, coordinate)
    class outputs     rows (label, prior), background first -> (prior, label), background last
    all others        nothing. The order of the types of priors in a cell is the same; that of the cells and types in the
                      list of all priors is not, which concerns no weight.

The backbone of the configs has the reference's dilation (TorchvisionDilatedResNet), so that the outputs are the same too.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ebm_mmdet.engine.checkpoint_conversion import (
    conversion_command,
    read_state_dict,
    rename_state,
    some_of,
    without_wrapper,
    write_state,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "rock"
TASKS = ("scene", "depth", "normals")
SSD, ROCK = "ssd_r50_480x640_30k_nyuv2", "rock_ssd_r50_480x640_30k_nyuv2"
BRANCH = "auxiliary.{}_extractor"

# fmt: off
SCENE_TYPES = (
    "basement", "bathroom", "bedroom", "bookstore", "cafe", "classroom", "computer_lab",
    "conference_room", "dinette", "dining_room", "exercise_room", "foyer", "furniture_store",
    "home_office", "home_storage", "indoor_balcony", "kitchen", "laundry_room", "living_room",
    "office", "office_kitchen", "playroom", "printer_room", "reception_room", "student_lounge",
    "study", "study_room",
)
# fmt: on
"""The 27 types of NYUv2, in the order of the scene outputs: the reference sorts them by name."""


def module_names(levels: int = 6, tasks: Sequence[str] = TASKS) -> dict[str, str]:
    """The reference's module names to ours; tensors below them keep their last name.

    The backbone is not listed: all of it keeps its names, below ``backbone``.

    Args:
        levels: number of feature levels with outputs.
        tasks: the tasks whose layers are listed.
    """
    names = {}
    for k in range(levels):
        names[f"detection.loc.{k}"] = f"bbox_head.reg_convs.{k}.0"
        names[f"detection.conf.{k}"] = f"bbox_head.cls_convs.{k}.0"
    for k in range(levels - 1):
        for theirs, ours in ((0, "0.0"), (1, "0.1"), (3, "1.0"), (4, "1.1")):
            names[f"detection.additional_layers.{k}.{theirs}"] = f"neck.levels.{k}.{ours}"
    for i in range(2):
        names[f"auxiliary.conv{i + 1}"] = f"block.encoder.{i}.0"
        names[f"auxiliary.bn{i + 1}"] = f"block.encoder.{i}.1"
    names["auxiliary.bn3"] = "block.fusion_norm"
    for task in tasks:
        branch = BRANCH.format(task)
        for i in range(3):
            names[f"{branch}.conv{i + 1}"] = f"block.tasks.{task}.extra_convs.{i}.0"
            names[f"{branch}.bn{i + 1}"] = f"block.tasks.{task}.extra_convs.{i}.1"
        names[f"{branch}.{task}_in"] = f"block.tasks.{task}.features"
        names[f"{branch}.{task}_out"] = f"block.decoders.{task}.0"
        names[f"{branch}.bn_out"] = f"block.decoders.{task}.1"
    return names


def box_rows(value: Tensor) -> Tensor | None:
    """Rows (coordinate, prior) of an output -> (prior, coordinate); None if they are not those."""
    if value.shape[0] % 4:
        return None
    return value.unflatten(0, (4, -1)).transpose(0, 1).flatten(0, 1)


def class_rows(value: Tensor, priors: int) -> Tensor | None:
    """Rows (label, prior), background first -> (prior, label), background last; or None."""
    if not priors or value.shape[0] % priors:
        return None
    return value.unflatten(0, (-1, priors)).transpose(0, 1).roll(-1, 1).flatten(0, 1)


def trained_tasks(official: dict[str, Tensor]) -> tuple[str, ...]:
    """Tasks whose layers have seen a batch, so far as batches were counted; () without a block."""
    found = []
    for task in TASKS:
        branch = BRANCH.format(task)
        counts = [int(v) for k, v in official.items() if k == f"{branch}.bn1.num_batches_tracked"]
        if any(key.startswith(branch) for key in official) and (not counts or counts[0] > 0):
            found.append(task)
    return tuple(found)


def convert(
    official: dict[str, Tensor], expected: dict[str, Tensor], tasks: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename and rearrange the tensors of the reference.

    Args:
        official: tensors by name, with or without the prefix ``module.``.
        expected: state dict of our model, with the required names and shapes.
        tasks: of our model; () is the plain SSD.

    Returns:
        A copy of ``expected`` with the converted values, and the names of those left out, which are
        of tasks that our model does not have.

    Raises:
        ConversionError: a tensor is missing, has another shape, or has an unknown name.
    """
    official = without_wrapper(official)
    levels = len({key.split(".")[2] for key in official if key.startswith("detection.loc.")})
    known, prefix = module_names(levels), "detector." if tasks else ""

    def place(key: str) -> str | None:
        module, _, tensor = key.rpartition(".")
        if key.startswith("feature_extractor."):
            return f"{prefix}backbone.{key.removeprefix('feature_extractor.')}"
        ours = known.get(module)
        if ours is None:
            return None
        return f"{ours}.{tensor}" if ours.startswith("block.") else f"{prefix}{ours}.{tensor}"

    def transform(key: str, value: Tensor) -> Tensor | None:
        kind, level = key.split(".")[1:3]
        if kind == "loc":
            return box_rows(value)
        if kind == "conf":
            boxes = official.get(f"detection.loc.{level}.bias")
            return None if boxes is None else class_rows(value, len(boxes) // 4)
        return value

    unused = tuple(BRANCH.format(task) for task in TASKS if task not in tasks)
    return rename_state(official, expected, place, transform, lambda name: name.startswith(unused))


def our_state(tasks: Sequence[str]) -> dict[str, Tensor]:
    """State dict of our config's model with these tasks; of the plain SSD without any."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    import ebm_mmdet  # noqa: F401  (registers the models)

    init_default_scope("mmdet")
    cfg = Config.fromfile(CONFIGS / f"{ROCK if tasks else SSD}.py").model
    if tasks:
        cfg.block.tasks = {task: dict(type=f"{task.capitalize()}Task") for task in tasks}
    return MODELS.build(cfg).state_dict()


def config_for(tasks: Sequence[str]) -> str:
    """The config of a converted model, with the options that it needs."""
    if not tasks or set(tasks) == set(TASKS):
        return f"configs/rock/{ROCK if tasks else SSD}.py"
    if len(tasks) == 1:
        return f"configs/rock/{ROCK}_{tasks[0]}.py"
    (absent,) = set(TASKS) - set(tasks)
    return f"configs/rock/{ROCK}.py --cfg-options model.block.tasks.{absent}=None"


def run(source: Path, target: Path) -> int:
    """Convert a file and print a report; returns the number of converted tensors.

    Raises:
        ConversionError: see :func:`convert`; or ``target`` exists.
    """
    from ebm_mmdet.datasets.nyuv2 import CLASSES

    official = read_state_dict(source, ("model", "state_dict"))
    tasks = trained_tasks(without_wrapper(official))
    state, left_out = convert(official, our_state(tasks), tasks)
    names = dict(classes=CLASSES, scene_types=SCENE_TYPES)
    write_state(target, state, dict(converted_from=source.name, dataset_meta=names))
    kind = f"ROCK with {', '.join(tasks)}" if tasks else "plain SSD"
    converted = len(official) - len(left_out)
    print(f"{source}: {kind}, {converted} tensors converted to {target}")
    if left_out:
        print(f"{len(left_out)} of tasks that were not trained were left out: {some_of(left_out)}")
    print(f"config: {config_for(tasks)}")
    return converted


def main(argv: list[str] | None = None) -> None:
    """Convert the file; report errors that the user can fix in one line."""
    conversion_command(Path(__file__), __doc__, run, argv)


if __name__ == "__main__":
    main()
