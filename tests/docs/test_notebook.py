"""The notebooks of docs/ run from top to bottom, and print what they printed when saved."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="requirements/docs.txt is not installed")
nbclient = pytest.importorskip("nbclient", reason="requirements/docs.txt is not installed")
pytest.importorskip("ipykernel", reason="requirements/docs.txt is not installed")

REPO = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPO / "docs" / "notebooks").glob("*.ipynb"))


def printed(notebook) -> str:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    return "".join(output.text for output in outputs if output.output_type == "stream")


def mean_ious(notebook) -> list[float]:
    """Before and after climbing, as the notebook prints them."""
    found = re.search(r"mean IoU with the truth ([\d.]+) -> ([\d.]+)", printed(notebook))
    assert found, printed(notebook)
    return [float(value) for value in found.groups()]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, tmp_path, monkeypatch):
    paths = [str(REPO), str(REPO / "ops"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    saved = nbformat.read(path, as_version=4)
    assert all(cell.outputs for cell in saved.cells if "plt.show()" in cell.source), (
        "saved without its pictures: run it and save it again"
    )
    run = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}  # it needs no file of the repository
    nbclient.NotebookClient(run, timeout=300, kernel_name="python3", resources=resources).execute()

    before, after = mean_ious(run)
    assert before == pytest.approx(mean_ious(saved)[0], abs=1e-3)
    assert after > before + 0.03
    pictures = [
        output for cell in run.cells for output in cell.get("outputs", ()) if "data" in output
    ]
    assert len(pictures) >= 4
