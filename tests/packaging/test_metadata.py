"""The lists that have to agree with each other."""

import re

import yaml

from tests.packaging.packaging_support import REPO


def names(path):
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {re.match(r"[A-Za-z0-9_.-]+", line).group().lower() for line in lines if line}


def test_every_requirement_is_constrained():
    common = ("runtime", "data", "onnx", "test", "docs")
    lines = {"constraints": (*common, "openmmlab", "3d"), "constraints-onedl": (*common, "onedl")}
    for constraints, parts in lines.items():
        pinned = names(REPO / "requirements" / f"{constraints}.txt")
        for part in parts:
            assert names(REPO / "requirements" / f"{part}.txt") <= pinned


def test_torchvision_is_nowhere():
    for path in (REPO / "requirements").glob("*.txt"):
        assert "torchvision" not in names(path)


def test_model_index_lists_every_config():
    index = yaml.safe_load((REPO / "model-index.yml").read_text())
    listed = set()
    for name in index["Import"]:
        metafile = yaml.safe_load((REPO / name).read_text())
        collections = {entry["Name"] for entry in metafile["Collections"]}
        for model in metafile["Models"]:
            assert model["In Collection"] in collections
            assert model["Config"].endswith(model["Name"] + ".py")
            listed.add(model["Config"])
    present = {
        path.relative_to(REPO).as_posix()
        for folder in ("ebm", "ebm3d", "kl_loss", "regression", "rock")
        for path in (REPO / "configs" / folder).glob("*.py")
    }
    assert listed == present
