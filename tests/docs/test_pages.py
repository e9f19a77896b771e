"""The pages are all in the index, and Sphinx builds them without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_index_lists_every_page():
    listed = (DOCS / "index.md").read_text().partition("```{toctree}")[2].split("```")[0].split()
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} == {*listed} - {":maxdepth:", "2"}


def test_sphinx_builds_them(tmp_path):
    pytest.importorskip("myst_parser", reason="requirements/docs.txt is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "downstream.html").exists()
