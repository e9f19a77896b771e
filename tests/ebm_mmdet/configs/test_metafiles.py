"""Metafiles as mim and mmengine read them, and a README beside every folder of configs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
INDEX = yaml.safe_load((ROOT / "model-index.yml").read_text())
METAFILES = {name: yaml.safe_load((ROOT / name).read_text()) for name in INDEX["Import"]}
FOLDERS = sorted(
    path.relative_to(ROOT / "configs").as_posix()
    for path in (ROOT / "configs").iterdir()
    if path.is_dir() and not path.name.startswith("_")
)

# The fields that the `model-index` package, which mim reads metafiles with, knows.
MODEL_FIELDS = {"Name", "Metadata", "Results", "Paper", "Code", "Weights", "Config", "README"}
MODEL_FIELDS |= {"In Collection", "Image"}


def test_the_index_lists_every_metafile():
    present = {p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("metafile.yml")}
    assert set(METAFILES) == present


@pytest.mark.parametrize("name", METAFILES)
def test_collections_and_models(name):
    """Paths count from the root of the repository, as in mmdet's metafiles, and exist."""
    metafile, folder = METAFILES[name], Path(name).parent
    assert set(metafile) == {"Collections", "Models"}
    collections = {entry["Name"]: entry for entry in metafile["Collections"]}
    assert len(collections) == len(metafile["Collections"]) > 0
    for collection in collections.values():
        assert set(collection) <= MODEL_FIELDS
        assert collection["README"] == (folder / "README.md").as_posix()
        assert (ROOT / collection["README"]).is_file()
        assert (ROOT / collection["Code"]["URL"]).is_file()
        assert set(collection["Paper"]) == {"URL", "Title"}
        # ROCK is not on arXiv.
        sources = ("https://arxiv.org/abs/", "https://proceedings.neurips.cc/paper/2018/hash/")
        assert collection["Paper"]["URL"].startswith(sources)
        # mim joins lists of strings and lower-cases strings.
        for value in collection["Metadata"].values():
            assert all(isinstance(v, str) for v in (value if isinstance(value, list) else [value]))
    for model in metafile["Models"]:
        assert set(model) <= MODEL_FIELDS
        assert model["In Collection"] in collections
        assert Path(model["Config"]).parent == folder
        assert Path(model["Config"]).stem == model["Name"]
        assert (ROOT / model["Config"]).is_file()
    listed = [model["Config"] for model in metafile["Models"]]
    present = [path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob("*.py")]
    assert sorted(listed) == sorted(present)


def test_names_are_unique():
    """Mim looks models up by name, in any folder."""
    names = [model["Name"] for metafile in METAFILES.values() for model in metafile["Models"]]
    assert len(names) == len(set(names))


def links(page: Path) -> set[str]:
    found = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    return {link for link in found if "://" not in link}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_readme_of_a_folder_names_every_file_in_it(folder):
    page = ROOT / "configs" / folder / "README.md"
    assert page.read_text().startswith("# ")
    files = {
        path.name
        for path in page.parent.iterdir()
        if path.suffix in (".py", ".yaml") and path.is_file()
    }
    assert {link for link in links(page) if "/" not in link} == files
    assert f"{folder}/README.md" in links(ROOT / "configs" / "README.md")


@pytest.mark.parametrize("folder", [".", *FOLDERS])
def test_what_a_readme_names_exists(folder):
    page = ROOT / "configs" / folder / "README.md"
    for link in links(page):
        assert (page.parent / link).exists(), link
    text = page.read_text()
    for path in re.findall(r"(?:^|[\s`])((?:tools|configs)/[\w/.]+\.(?:py|sh|yaml))", text):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"(?<!\w)(mmdet3d|mmdet)::([\w/.-]+\.py)", text):
        package = pytest.importorskip(name[0])
        assert (Path(package.__file__).parent / ".mim" / "configs" / name[1]).is_file(), name


def test_the_readme_gives_the_published_numbers_of_the_recipes():
    """One number for the table and for the recipe's own docstring."""
    for folder in ("ebm", "kl_loss"):
        rows = re.findall(
            r"^\| \[(\S+\.py)\].*\| published: (\d\d\.\d)",
            (ROOT / "configs" / folder / "README.md").read_text(),
            flags=re.M,
        )
        assert len(rows) > 2
        for name, value in rows:
            docstring = (ROOT / "configs" / folder / name).read_text().split('"""')[1]
            assert value in docstring, (name, value)
