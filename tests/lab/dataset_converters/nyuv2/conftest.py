"""The four source files in miniature, and what the converter makes of them."""

from __future__ import annotations

import contextlib
import io

import pytest

from dataset_converters.nyuv2_conversion import convert
from dataset_converters.progress_bars import no_progress_bars
from tests.lab.dataset_converters.nyuv2.nyuv2_support import write_sources


@pytest.fixture(autouse=True)
def _quiet():
    with no_progress_bars(), contextlib.redirect_stdout(io.StringIO()):
        yield


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("nyuv2 source"))


@pytest.fixture(scope="module")
def converted(sources, tmp_path_factory):
    """Everything, with default options."""
    out = tmp_path_factory.mktemp("nyuv2") / "out"
    with no_progress_bars(), contextlib.redirect_stdout(io.StringIO()):
        convert(sources.labeled, sources.splits, out, sources.normals, sources.val_split)
    return out
