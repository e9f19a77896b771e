"""The sentence at the end: it pays, it does not and why, or nothing can be said."""

from __future__ import annotations

from dataclasses import replace

from ebm_mmdet.apis.fitting.verdict import Circumstances, verdict

METRICS = ("AP", "AP50", "AP75", "AP90", "IoU_TP")
GOOD = Circumstances(boxes=5000, images=400, judged=100, iterations=9000, cells=6.0)


def row(method: str, gain: float | None, error: float = 0.2, ms: float = 40.0, iou: float = 85.0):
    """A row of the table whose metrics all gain the same; None for the first row."""
    values = dict.fromkeys(METRICS, 50.0 + (gain or 0))
    changes = {f"change_{name}": gain for name in METRICS}
    errors = {f"error_{name}": None if gain is None else error for name in METRICS}
    return dict(method=method, ms_per_image=ms, **values, **changes, **errors) | dict(IoU_TP=iou)


def table(energy: float, regression: float = 0.0, **options):
    return [
        row("detector", None, **options),
        row("constant correction", 0.0),
        row("regression head", regression, ms=41),
        row("energy head", energy, ms=52),
    ]


def test_a_gain_beyond_two_errors_pays_and_costs():
    found = verdict(table(1.0), GOOD)
    assert found.pays
    assert found.sentence.startswith("Refinement pays: AP +1.00 ± 0.20")
    assert "for 12.0 ms more per image" in found.sentence
    assert "as well" not in found.sentence
    assert not verdict(table(0.39), GOOD).pays  # within two errors
    assert not verdict([*table(0.0)[:3], row("energy head", 0.05, error=0.01)], GOOD).pays


def test_a_gain_that_the_images_to_tune_on_do_not_have_is_not_believed():
    found = verdict(table(1.0), replace(GOOD, tuning_gain=-0.04))
    assert not found.pays
    assert "no setting was better than the detector on the images to tune on (AP -0.04)" in (
        found.sentence
    )
    assert verdict(table(1.0), replace(GOOD, tuning_gain=0.01)).pays


def test_a_gain_in_ap_without_closer_boxes_is_not_believed():
    """Chance moves AP where rare classes have few boxes; tighter boxes show in the mean IoU."""
    for closer, error, said in ((-0.06, 0.09, "-0.06 ± 0.09"), (0.1, 0.06, "+0.10 ± 0.06")):
        rows = table(1.0)
        rows[-1] |= dict(change_IoU_TP=closer, error_IoU_TP=error)
        found = verdict(rows, GOOD)
        assert not found.pays
        assert f"not closer to the objects that they match (mean IoU {said})" in found.sentence
    rows[-1] |= dict(change_IoU_TP=0.13, error_IoU_TP=0.06)
    assert verdict(rows, GOOD).pays
    rows[-1] |= dict(change_IoU_TP=None, error_IoU_TP=None)
    assert "(mean IoU unknown)" in verdict(rows, GOOD).sentence


def test_a_rival_that_does_as_well_is_named():
    found = verdict(table(1.0, regression=1.2), GOOD)
    assert found.pays
    assert "The regression head does as well: AP +1.20 at 1.0 ms." in found.sentence


def test_the_usual_reasons():
    assert verdict(table(0.0), GOOD).reasons == []
    assert "none of the usual reasons" in verdict(table(0.0), GOOD).sentence
    cases = {
        "too few annotations (85 boxes": (replace(GOOD, boxes=85), {}),
        "about as precise as annotations": (GOOD, dict(iou=93.0)),
        "too coarse": (replace(GOOD, cells=1.5), {}),
        "too little training (9 iterations": (replace(GOOD, iterations=9), {}),
    }
    for words, (around, options) in cases.items():
        found = verdict(table(0.0, **options), around)
        assert len(found.reasons) == 1
        assert words in found.sentence


def test_few_images_say_nothing():
    found = verdict(table(5.0), replace(GOOD, judged=2))
    assert not found.pays
    assert "Nothing can be said from 2 judged images" in found.sentence
