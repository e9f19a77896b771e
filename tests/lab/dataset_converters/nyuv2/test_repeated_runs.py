"""What a second run does: it continues, leaves as it is, or refuses."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("h5py", reason="NYUv2 is an HDF5 file: pip install h5py")

import dataset_converters.nyuv2_conversion as conversion
from dataset_converters.nyuv2_conversion import convert
from dataset_converters.nyuv2_files.addresses import NYUv2Error
from dataset_converters.nyuv2_files.objects import Options
from tests.lab.dataset_converters.nyuv2.nyuv2_support import listing


@pytest.mark.parametrize("stop", ["normals", "image", "annotations"])
def test_an_interrupted_run_continues(sources, tmp_path, converted, monkeypatch, stop):
    """Interrupted at any stage, it ends with the same files, and makes no image twice."""
    out, calls = tmp_path / "out", []
    name = {"normals": "_check_png", "image": "_write_image", "annotations": "write_annotations"}
    real = getattr(conversion, name[stop])

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    arguments = (*sources[:2], out, *sources[2:])
    with monkeypatch.context() as patch:
        patch.setattr(conversion, name[stop], interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(*arguments)
    assert not (out / "annotations" / "instances_train.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.is_file()}
    if stop == "annotations":  # an unreadable part is not taken for an absent one
        part = out / "annotations" / ".parts" / "0002.json"
        content = part.read_text()
        part.write_text(content[:20])
        with pytest.raises(NYUv2Error, match=r"0002\.json is not valid JSON"):
            convert(*arguments)
        part.write_text(content)
    convert(*arguments)
    assert listing(out) == listing(converted)
    for path, time in before.items():
        if ".parts" not in path.parts:
            assert path.stat().st_mtime_ns == time, path


def test_a_complete_run_is_left_as_it_is(sources, tmp_path, converted, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(converted, out)
    (out / "images" / "0001.png").write_bytes(b"changed by the user")
    before = listing(out)
    monkeypatch.setattr(conversion, "_write_image", None)
    files = convert(*sources[:2], out, *sources[2:])
    assert len(files) == 4
    assert listing(out) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": Options("ref")}, "box_convention': 'inclusive'.* there, .*'ref'.* now"),
        ({"normals": None}, "normals: True there, False now"),
        ({"val_split": None}, "splits: .*nothing is overwritten"),
    ],
)
def test_other_options_than_those_of_the_first_run_are_refused(sources, converted, change, message):
    before = listing(converted)
    arguments = {"normals": sources.normals, "val_split": sources.val_split, **change}
    with pytest.raises(NYUv2Error, match=message):
        convert(sources.labeled, sources.splits, converted, **arguments)
    assert listing(converted) == before


def test_a_folder_with_other_content_is_refused(sources, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(NYUv2Error, match="exists and is no conversion of NYUv2"):
        convert(sources.labeled, sources.splits, tmp_path / "out")
    (tmp_path / "out" / "conversion.json").write_text("{")
    with pytest.raises(NYUv2Error, match="is not valid JSON"):
        convert(sources.labeled, sources.splits, tmp_path / "out")
