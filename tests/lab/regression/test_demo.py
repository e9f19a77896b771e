"""`make demo-regression` as a miniature: tables, pictures, a second run beside the first."""

from __future__ import annotations

from ebm_mmdet.files import read_json
from lab.regression.demo import run_demo
from tests.lab.regression.test_study import TINY


def demo(out):
    return run_demo(out, jobs=1, tasks=["head"], methods=["direct", "ebm_mdn"], changes=TINY)


def test_from_nothing_to_a_table_and_pictures(tmp_path, capsys):
    out = demo(tmp_path / "a demo")
    shown = capsys.readouterr().out
    assert "Which way does the translucent head look?" in shown
    assert "energy, learned proposal: mode" in shown
    assert "the true density" in shown
    pictures = sorted(path.name for path in (out / "pictures").iterdir())
    assert pictures == ["head_0.png", "head_1.png", "head_2.png"]
    results = read_json(out / "results.json")
    assert [r["method"] for r in results] == ["direct", "ebm_mdn"]
    assert "nll_oracle_ambiguous" in results[1]["values"]["mean"]

    (out / "results.json").unlink()  # as if interrupted at the end
    assert demo(tmp_path / "a demo") == out
    assert read_json(out / "results.json") == results
