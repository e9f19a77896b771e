"""The part of a page that belongs to a study, and no other, is replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebm_mmdet.files import fill_section, markdown_table, write_text

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


def test_table() -> None:
    assert markdown_table(["", "AP"], [["x", "1"]]) == "|  | AP |\n| --- | ---: |\n| x | 1 |"
