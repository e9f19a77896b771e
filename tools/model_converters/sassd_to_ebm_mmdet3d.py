#!/usr/bin/env python
"""Convert the published checkpoints of SA-SSD, and of its energy head, to those of this project.

    tools/model_converters/sassd_to_ebm_mmdet3d.py epoch_50.pth work_dirs/sassd_paper_car_kitti/epoch_80.pth
    tools/model_converters/sassd_to_ebm_mmdet3d.py checkpoint_epoch_80.pth work_dirs/sassd_ebm.pth

The first is SA-SSD (github.com/skyhehe123/SA-SSD), for configs/ebm3d/sassd_paper_car_kitti.py. The second has an energy
head too (github.com/fregu856/ebms_3dod, its SingleStageDetector20), and the detector whose batch normalisations drifted
while that was trained; it is for configs/ebm3d/sassd_paper_car_kitti_nce.py. The tool recognises which of
the two a file is.

Changes besides names:

    sparse kernels    spconv 1 (D, H, W, in, out) -> spconv 2 (out, D, H, W, in); 1 x 1 x 1: a matrix (out, in)
    box regression    rows (x, y, z, w, l, h, rotation_y) -> (x, y, z, l, w, h, yaw), the last with its sign changed,
                      since yaw = -rotation_y - pi/2; anchors of the config have the same order
    all others        nothing: directions (rotation_y > 0 is yaw beyond pi/2), parts of the warping and the energy
                      head's 256 x 4 x 7 samples, z and h have the same order
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ebm_mmdet.engine.checkpoint_conversion import (
    conversion_command,
    read_state_dict,
    rename_state,
    write_state,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "ebm3d"

WHAT_WAS_CHECKED = """Verified against the released code: names and shapes of the layers, the order of a sparse kernel's axes,
and that the last of several points in a voxel gets the neighbours (spconv 1 on a GPU: any of them).
Not verified: AP, because the published files were not available; compare with the config's own line `Expected`."""  # noqa: E501


def module_names() -> dict[str, str]:
    """Official module names to ours; tensors below them keep their last name."""
    names = {
        "neck.backbone.extra_conv.0": "middle_encoder.conv_out.0",
        "neck.backbone.extra_conv.1": "middle_encoder.conv_out.1",
        "rpn_head.conv_cls": "bbox_head.conv_cls",
        "rpn_head.conv_box": "bbox_head.conv_reg",
        "rpn_head.conv_dir_cls": "bbox_head.conv_dir_cls",
    }
    for layer in range(2):
        for i, part in enumerate(("conv", "norm")):
            ours = f"middle_encoder.stem.{layer}.{part}"
            names[f"neck.backbone.conv0.{3 * layer + i}"] = ours
    for stage, convs in enumerate((2, 3, 3)):
        for i in range(2):
            names[f"neck.backbone.down{stage}.{i}"] = f"middle_encoder.stages.{stage}.0.{i}"
            for conv in range(convs):
                ours = f"middle_encoder.stages.{stage}.{conv + 1}.{i}"
                names[f"neck.backbone.conv{stage + 1}.{3 * conv + i}"] = ours
    for i in range(8):
        names[f"neck.fcn.conv{i}"] = f"backbone.conv{i}.conv"
        names[f"neck.fcn.bn{i}"] = f"backbone.conv{i}.bn"
    # The last version of SA-SSD has the auxiliary network one level higher; see `convert`.
    for parent in ("neck.backbone", "neck"):
        for name in ("point_fc", "point_cls", "point_reg"):
            names[f"{parent}.{name}"] = f"auxiliary_head.{name}"
    for i in (0, 1, 3):
        names[f"extra_head.convs.{i}"] = f"rescore_head.convs.{i}"
    return names


ENERGY_HEAD = {
    "ebm_fc1": "energy_head.trunk.0",
    "ebm_fc2": "energy_head.trunk.1",
    "ebm_fc3": "energy_head.fc_energy",
    "z_fc1": "energy_head.fc_z.0",
    "z_fc2": "energy_head.fc_z.2",
    "h_fc1": "energy_head.fc_h.0",
    "h_fc2": "energy_head.fc_h.2",
}


def sparse_kernel(value):
    """(D, H, W, in, out) -> (out, D, H, W, in), or (out, in) if D = H = W = 1."""
    value = value.permute(4, 0, 1, 2, 3)
    return value[:, 0, 0, 0] if value.shape[1:4] == (1, 1, 1) else value


def box_regression(value):
    """Rows (x, y, z, w, l, h, rotation_y) of each anchor -> (x, y, z, l, w, h, yaw)."""
    import torch

    rows = value.unflatten(0, (-1, 7))[:, [0, 1, 2, 4, 3, 5, 6]]
    sign = torch.tensor([1.0] * 6 + [-1.0]).view(1, 7, *[1] * (value.dim() - 1))
    return (rows * sign.to(rows.dtype)).flatten(0, 1)


def transform_of(module: str, value) -> Callable | None:
    """The conversion of a tensor of an official module; None if its shape is wrong."""
    if module == "rpn_head.conv_box":
        return box_regression if value.shape[0] % 7 == 0 else None
    if value.dim() == 5:
        return sparse_kernel if value.shape[:3] in ((3, 3, 3), (1, 1, 1)) else None
    return lambda value: value


def convert(official: dict, expected: dict, with_energy_head: bool) -> tuple[dict, list[str]]:
    """Rename and rearrange the tensors of an official state dict.

    Args:
        official: tensors by name, with or without the prefix ``module.``.
        expected: state dict of our model, with the required names and shapes.
        with_energy_head: whether our model is an ``EBM3DDetector``.

    Returns:
        A copy of ``expected`` with the converted values, metadata included, and the names of the
        official tensors that do not belong to it. If a file has the auxiliary network twice, that
        of ``neck.backbone`` is taken.

    Raises:
        ConversionError: a tensor is missing, or has another shape.
    """
    names = module_names()
    if with_energy_head:
        names = {old: f"detector.{new}" for old, new in names.items()} | ENERGY_HEAD
    bare = {key.removeprefix("module.") for key in official}

    def parts(key: str) -> tuple[str, str]:
        module, _, tensor = key.removeprefix("module.").rpartition(".")
        return module, tensor

    def place(key: str) -> str | None:
        module, tensor = parts(key)
        twice = module.startswith("neck.point_") and f"neck.backbone.{module[5:]}.{tensor}" in bare
        return None if twice or module not in names else f"{names[module]}.{tensor}"

    def transform(key: str, value):
        function = transform_of(parts(key)[0], value)
        return None if function is None else function(value)

    return rename_state(official, expected, place, transform)


def read(path: Path) -> dict:
    """The tensors of a checkpoint, with or without a wrapping dictionary.

    Raises:
        ConversionError: the file does not exist, has objects of other types, or has no tensors.
    """
    return read_state_dict(path, ("model_state", "state_dict"))


def our_state(with_energy_head: bool) -> dict:
    """State dict of our config's model."""
    from mmdet3d.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    import ebm_mmdet3d.models  # noqa: F401  registers the models

    name = "sassd_paper_car_kitti_nce.py" if with_energy_head else "sassd_paper_car_kitti.py"
    init_default_scope("mmdet3d")
    return MODELS.build(Config.fromfile(CONFIGS / name).model).state_dict()


def run(source: Path, target: Path) -> int:
    """Convert a file and print a report; returns the number of converted tensors.

    Raises:
        ConversionError: see :func:`read` and :func:`convert`; or ``target`` exists.
    """
    official = read(source)
    with_energy_head = any(key.removeprefix("module.").startswith("ebm_fc") for key in official)
    state, left_out = convert(official, our_state(with_energy_head), with_energy_head)
    meta = dict(converted_from=source.name, dataset_meta=dict(classes=("Car",)))
    write_state(target, state, meta)
    kind = "SA-SSD with an energy head" if with_energy_head else "SA-SSD"
    converted = len(official) - len(left_out)
    print(f"{source}: {kind}, {converted} tensors converted to {target}")
    if left_out:
        print(f"{len(left_out)} without a place in our model were left out: {', '.join(left_out)}")
    print(WHAT_WAS_CHECKED)
    return converted


def main(argv: list[str] | None = None) -> None:
    """Convert the file; report errors that the user can fix in one line."""
    conversion_command(Path(__file__), __doc__, run, argv)


if __name__ == "__main__":
    main()
