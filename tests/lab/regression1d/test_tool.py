import csv
import json
import runpy
from pathlib import Path

import pytest

from lab.regression1d import StudyError, figures, report, run_study, runs
from lab.regression1d.published import published_kl

ROOT = Path(__file__).parents[3]
SMALL = ["--models", "2", "--epochs", "2", "--samples", "2", "4"]


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(runs, "EVALUATION_X", dict.fromkeys(runs.EVALUATION_X, 16))
    monkeypatch.setattr(figures, "PIXELS", 32)


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(ROOT / "tools" / "regression1d.py"))["main"]


def png_size(path):
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_table_csv_pictures_and_page(main, tmp_path, capsys):
    out, page = tmp_path / "study", tmp_path / "page.md"
    page.write_text(
        "# Title\n<!-- regression1d-samples:begin -->\nold\n"
        "<!-- regression1d-samples:end -->\nend\n"
    )
    methods = ["--method", "nceplus", "nce-mdn-2", "--dataset", "1", "2"]
    main([*methods, *SMALL, "--out", str(out), "--page", str(page)])
    shown = capsys.readouterr().out
    assert "nceplus" in shown
    assert "0/2 + 0/2" in shown
    assert "nceplus" in (out / "results.txt").read_text()

    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * (2 + 1)
    row = next(r for r in rows if (r["method"], r["num_samples"]) == ("nceplus", "4"))
    values = [float(v) for v in row["per_model"].split()]
    assert float(row["mean"]) == pytest.approx(sum(values) / 2, abs=1e-5)

    names = ["densities_1", "densities_2", "kl_vs_samples", "training_kl", "training_loss"]
    found = sorted(path.stem for path in (out / "figures").iterdir())
    assert found == names
    assert all(min(png_size(out / "figures" / f"{name}.png")) > 300 for name in names)

    text = page.read_text()
    assert text.startswith("# Title\n")
    assert "old" not in text
    assert "| nceplus | 4 |" in text
    assert "<!-- regression1d-methods:end -->" in text


def test_finished_runs_are_kept_and_others_refused(main, tmp_path, capsys):
    out = tmp_path / "study"
    arguments = ["--method", "nce", "--dataset", "1", *SMALL, "--out", str(out)]
    main(arguments)
    result = out / "runs" / "1" / "nce_M4" / "result.json"
    before, changed = result.read_bytes(), result.stat().st_mtime_ns
    capsys.readouterr()
    main(arguments)
    assert "measured before" in capsys.readouterr().out
    assert (result.read_bytes(), result.stat().st_mtime_ns) == (before, changed)

    (out / "results.csv").unlink()
    main(["--report", "--out", str(out)])
    assert (out / "results.csv").exists()
    with pytest.raises(SystemExit, match="holds no finished run"):
        main(["--report", "--out", str(tmp_path / "empty")])

    with pytest.raises(SystemExit, match=r"other settings.*Give another --out"):
        main([*arguments, "--seed", "1"])
    assert result.read_bytes() == before


def test_jobs_do_not_change_numbers(tmp_path):
    options = {"methods": ["nce", "sm"], "num_samples": [4], "models": 2, "epochs": 1}
    kl = []
    for jobs in (1, 2):
        out = run_study(out=tmp_path / str(jobs), jobs=jobs, **options)
        kl.append(
            {
                p.parent.name: json.loads(p.read_text())["kl"]
                for p in out.glob("runs/*/*/result.json")
            }
        )
    assert kl[0] == kl[1]


def test_failed_models_are_counted(main, tmp_path, monkeypatch, capsys):
    import torch

    build = runs.build_trainee

    def poisoned(*arguments):
        trainee = build(*arguments)
        with torch.no_grad():
            trainee.energy.x1_weight[0] = torch.nan
        return trainee

    monkeypatch.setattr(runs, "build_trainee", poisoned)
    main(["--method", "nce", "--dataset", "1", *SMALL, "--out", str(tmp_path / "study")])
    assert "1/2" in capsys.readouterr().out
    result = json.loads((tmp_path / "study/runs/1/nce_M4/result.json").read_text())
    assert result["kl"][0] is None
    assert result["kl"][1] > 0


def test_learned_proposals_are_measured(main, tmp_path):
    out = tmp_path / "study"
    main(["--method", "nce-mdn-2", "mdn-1", "--dataset", "1", *SMALL, "--out", str(out)])
    found = json.loads((out / "runs/1/nce-mdn-2_M1/result.json").read_text())
    assert len(found["ess"]) == 2
    assert all(1 / 1024 <= share <= 1 for share in found["ess"])
    assert "ess" not in json.loads((out / "runs/1/mdn-1/result.json").read_text())


def test_method_by_config(main, tmp_path):
    config = ROOT / "configs" / "regression1d" / "nce_exchangeable.yaml"
    out = tmp_path / "study"
    main(["--config", str(config), "--dataset", "2", *SMALL, "--out", str(out)])
    assert (out / "runs" / "2" / "nce_exchangeable_M16" / "result.json").exists()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("model: {}\n")
    with pytest.raises(SystemExit, match="has no `method"):
        main(["--config", str(wrong), "--out", str(out)])


def test_wrong_arguments(main, tmp_path, capsys):
    with pytest.raises(SystemExit, match="method 'ncee' is unknown; choose from ml-is"):
        main(["--method", "ncee", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        main(["--epochs", "0"])
    assert "--epochs 0: must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--quick", "--paper"])


def test_interrupted_study_goes_on(tmp_path, monkeypatch):
    out = tmp_path / "study"
    options = {"methods": ["nce"], "datasets": ["1"], "num_samples": [2], "models": 2, "epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr(runs, "negative_log_likelihood", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_study(out=out, **options)
    assert not (out / "runs/1/nce_M2/result.json").exists()
    assert (out / "runs/1/nce_M2/checkpoint.pth").exists()
    run_study(out=out, **options)
    assert (out / "runs/1/nce_M2/result.json").exists()
    with pytest.raises(StudyError, match="other settings"):
        run_study(out=out, **{**options, "epochs": 2})
    later = out / "runs/1/nce_M2/run.json"
    later.write_text(json.dumps({**json.loads(later.read_text()), "warmth": 3}))
    with pytest.raises(StudyError, match="other warmth"):  # of a later version of this tool
        run_study(out=out, **options)


def result(method, num_samples, dataset, **measured):
    return {
        "method": method,
        "dataset": dataset,
        "config": {"num_samples": num_samples},
        "settings": {"seed": 0, "epochs": 2},
        "kl": [0.5, 0.7],
        "nll": [1.5, 1.7],
        "ms_per_step": 3.0,
        **measured,
    }


def cells(table, method):
    header, rows = table
    return next(dict(zip(header, row)) for row in rows if row[0] == method)


def test_a_published_number_of_another_m_says_so():
    runs = [result(*run, d) for run in (("dsm", 64), ("nce", 1024), ("sm", 0)) for d in "12"]
    table = report.method_table(runs)
    assert cells(table, "dsm")["published"] == "0.395 [R], M = 1024"
    assert cells(table, "nce")["published"] == "0.068 [R]"
    assert cells(table, "sm")["published"] == "0.781 [R]"


def test_effective_samples_are_reported_where_they_were_measured(tmp_path):
    runs = [
        result("nce-mdn-4", 256, "1", ess=[0.25, 0.5]),
        result("nce-mdn-4", 256, "umal", ess=[None, 0.5]),
        result("nce", 1024, "umal"),
    ]
    table = report.proposal_table(runs)
    row = cells(table, "nce-mdn-4")
    assert (row["ESS/M, data 1"], row["ESS/M, 1D-2"]) == ("0.375", "0.500")
    # A fixed noise has none, and neither has a result written before they were measured.
    assert cells(table, "nce")["ESS/M, 1D-2"] == "–"
    report.write_csv(tmp_path / "results.csv", runs)
    with (tmp_path / "results.csv").open() as file:
        assert {row["ess_per_sample"] for row in csv.DictReader(file)} == {"0.375", "0.500", ""}


def test_published_numbers():
    assert published_kl("nce", 1024) == (0.068, "R", 1024)
    assert published_kl("nce", 1) == (0.49, "D", 1)
    assert published_kl("sm", 0) == (0.781, "R", 0)
    assert published_kl("ml-mcmc-16", 64) == (0.449, "R", 1024)
    assert published_kl("nce", 2) is None
    assert published_kl("mdn-4", 0) is None
