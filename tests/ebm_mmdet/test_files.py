"""The part of a page that belongs to a study, and no other, is replaced."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ebm_mmdet
from ebm_mmdet.files import (
    fill_section,
    markdown_table,
    open_atomic,
    read_json,
    write_csv,
    write_json,
    write_new_text,
    write_text,
)

PAGE = (
    "# Results\n\n<!-- a:begin -->\nold\n<!-- a:end -->\n\n<!-- b:begin -->\nkeep\n<!-- b:end -->\n"
)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch) -> None:
    def full(*_) -> None:
        raise OSError("No space left on device")

    page = tmp_path / "results.md"
    write_text(page, "old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_text(page, "new")
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]


def test_replaces_one_section(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(PAGE)
    fill_section(page, "a", "new\ntable")
    assert page.read_text() == PAGE.replace("old", "new\ntable")
    assert [path.name for path in tmp_path.iterdir()] == ["results.md"]


def test_adds_missing_markers(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    for content in ("first", "second"):
        fill_section(page, "c", content)
    assert page.read_text() == "# Results\n\n<!-- c:begin -->\nsecond\n<!-- c:end -->\n"


@pytest.mark.parametrize(
    "text", ["<!-- a:begin -->", "<!-- a:end -->\n<!-- a:begin -->", PAGE + PAGE]
)
def test_refuses_a_broken_page(tmp_path: Path, text: str) -> None:
    page = tmp_path / "results.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="expected one of each"):
        fill_section(page, "a", "new")
    assert page.read_text() == text


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_replaces_nothing_and_is_whole(tmp_path: Path, monkeypatch, links) -> None:
    def unsupported(*_) -> None:
        raise OSError("Operation not supported")

    def full(*_) -> None:
        raise OSError("No space left on device")

    if not links:
        monkeypatch.setattr(os, "link", unsupported)
    path = tmp_path / "sub folder" / "config.py"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_new_text(path, "half")
    assert not list(path.parent.iterdir())
    write_new_text(path, "a = 1")
    with pytest.raises(FileExistsError):
        write_new_text(path, "a = 2")
    assert path.read_text() == "a = 1"
    assert list(path.parent.iterdir()) == [path]


def test_table() -> None:
    assert markdown_table(["", "AP"], [["x", "1"]]) == "|  | AP |\n| --- | ---: |\n| x | 1 |"


def test_a_block_that_raises_leaves_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with open_atomic(path) as file:
            file.write(b"half")
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_threads_never_write_into_one_file(tmp_path: Path) -> None:
    path, barrier = tmp_path / "x.bin", threading.Barrier(8)

    def write(number: int) -> None:
        with open_atomic(path) as file:
            for _ in range(50):
                file.write(bytes([number]) * 1000)
            barrier.wait(timeout=60)  # all have their file open at the same time

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    content = path.read_bytes()
    assert len(content) == 50_000
    assert len(set(content)) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="permissions and links of POSIX")
def test_permissions_and_links_are_those_of_a_plain_write(tmp_path: Path) -> None:
    kept = os.umask(0o027)
    try:
        write_text(tmp_path / "a b.txt", "x")
    finally:
        os.umask(kept)
    assert (tmp_path / "a b.txt").stat().st_mode & 0o777 == 0o640
    target, link = tmp_path / "elsewhere" / "target.txt", tmp_path / "link.txt"
    write_text(target, "old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_json_that_cannot_be_read_is_not_absent(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert read_json(path) is None
    write_json(path, {"a": [1, None]})
    assert read_json(path) == {"a": [1, None]}
    for content in (b"", b'{"a": ', b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"results\.json is not valid JSON"):
            read_json(path)
        assert path.read_bytes() == content
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match=r"results\.json"):
        read_json(path)


def test_no_other_way_to_write_a_file_atomically() -> None:
    """`os.replace` is for folders elsewhere; files go through `open_atomic`."""
    root = Path(ebm_mmdet.__file__).resolve().parents[1]
    folders = {"kitti_writer.py", "kitti_preparation.py"}
    users = [
        path
        for folder in ("ebm_mmdet", "ebm_mmdet3d", "tools")
        for path in (root / folder).rglob("*.py")
        if "os.replace(" in path.read_text() and path.name not in folders
    ]
    assert users == [root / "ebm_mmdet" / "files.py"]


def test_a_csv_has_the_keys_of_all_rows(tmp_path):
    write_csv(tmp_path / "rows.csv", [dict(a=1), dict(a=2, b=None), dict(b="x, y", c=3.5)])
    text = (tmp_path / "rows.csv").read_text(encoding="utf-8")
    assert text.splitlines() == ["a,b,c", "1,,", "2,,", ',"x, y",3.5']
