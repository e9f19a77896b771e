"""The files for other tools, and the decisions that come back."""

from __future__ import annotations

import csv
import json

import pytest
from pycocotools.coco import COCO

from ebm_mmdet.apis.auditing import apply_decisions
from ebm_mmdet.apis.auditing.annotations import read_annotations
from ebm_mmdet.apis.auditing.exports import label_studio, write_exports
from ebm_mmdet.apis.auditing.findings import find
from tests.ebm_mmdet.apis.auditing.some_findings import (
    CLASSES,
    some_findings,
    some_results,
    write_data,
)


@pytest.fixture
def audited(tmp_path):
    path, annotations, findings = some_findings(tmp_path, ids=lambda i: f"scan-{i}")
    write_exports(tmp_path / "out", annotations, findings, 0.5)
    return tmp_path, path, findings


def content(path):
    return json.loads(path.read_text())


def test_findings_are_ranked_and_name_the_side(audited):
    _, _, findings = audited
    worst = findings.boxes[0]
    assert worst["probability"] > 0.9
    assert [name for name, side in worst["sides"].items() if side["marked"]] == ["left"]
    assert findings.mixture.share == pytest.approx(4 / 30, rel=0.5)
    assert len(findings.superfluous) == 1
    assert findings.missing[0]["category"] == "bat"


def test_the_table_has_every_annotation(audited):
    folder, path, findings = audited
    with (folder / "out" / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(content(path)["annotations"])
    assert [float(row["probability"]) for row in rows] == [
        each["probability"] for each in findings.boxes
    ]
    assert float(rows[0]["left_shift_px"]) < -2


def test_coco_keeps_the_file_and_adds_keys(audited):
    folder, path, _ = audited
    before, after = content(path), content(folder / "out" / "audit_coco.json")
    for old, new in zip(before["annotations"], after["annotations"]):
        assert old.items() <= new.items()
        assert {"mistakenness_loc", "possible_spurious", "audit_proposal"} <= new.keys()
    assert len(after["possible_missing"]) == 6
    COCO(str(folder / "out" / "audit_coco.json"))


def test_cvat_moves_the_flagged_boxes_alone(audited):
    folder, path, findings = audited
    flagged = {each["row"]: each for each in findings.boxes if each["probability"] >= 0.5}
    rows = content(folder / "out" / "cvat.json")["annotations"]
    for number, (old, new) in enumerate(zip(content(path)["annotations"], rows)):
        if number not in flagged:
            assert old == new
            continue
        assert new["bbox"] == flagged[number]["proposal"]
        assert new["segmentation"] == []
        assert set(new["attributes"]) == {"audit_probability", "audit_sides"}


def test_label_studio_has_percent_and_predictions(audited):
    folder, path, findings = audited
    tasks = content(folder / "out" / "label_studio.json")
    assert len(tasks) == 6
    shown = [region for task in tasks for region in task["annotations"][0]["result"]]
    assert len(shown) == 30
    first = content(path)["annotations"][0]["bbox"]
    value = shown[0]["value"]
    assert value["x"] == pytest.approx(100 * first[0] / 160)
    assert value["height"] == pytest.approx(100 * first[3] / 120)
    moved = [r for task in tasks for r in task["predictions"][0]["result"] if "box-" in r["id"]]
    assert len(moved) == sum(each["probability"] >= 0.5 for each in findings.boxes)


def decide(folder, findings, **changes):
    box, missing, nothing = findings.boxes[0], findings.missing[0], findings.superfluous[0]
    second = findings.boxes[1]
    decisions = [
        dict(box, kind="box", decision="accept"),
        dict(second, kind="box", decision="reject"),
        dict(missing, kind="missing", decision="accept"),
        dict(nothing, kind="superfluous", decision="accept"),
    ]
    decisions[0] |= changes
    path = folder / "accepted.json"
    path.write_text(json.dumps(dict(decisions=decisions)))
    return path


def test_accepted_changes_and_nothing_else(audited):
    folder, path, findings = audited
    before = path.read_bytes()
    done = apply_decisions(decide(folder, findings), path, folder / "new.json")
    assert done == dict(moved=1, added=1, removed=1, with_masks=0)
    assert path.read_bytes() == before
    old, new = content(path)["annotations"], content(folder / "new.json")["annotations"]
    gone = old[findings.superfluous[0]["row"]]["id"]
    worst = findings.boxes[0]
    by_id = {each["id"]: each for each in new}
    assert len(new) == len(by_id) == 30
    for each in old:
        if each["id"] == gone:
            assert gone not in by_id
        elif each["id"] == worst["id"]:
            assert by_id[each["id"]]["bbox"] == worst["proposal"]
            assert by_id[each["id"]]["bbox_before_audit"] == each["bbox"]
        else:
            assert by_id[each["id"]] == each
    added = new[-1]
    assert added["image_id"] == findings.missing[0]["image_id"]
    assert added["category_id"] == 2
    with pytest.raises(FileExistsError):
        apply_decisions(folder / "accepted.json", path, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(bbox=[1, 2, 3, 4]), "give the file that was audited"),
        (dict(row=1000), "give the file that was audited"),
        (dict(kind="moved"), "kind 'moved'"),
        (dict(proposal=[1, 2, 0, 4]), r"proposal is \[1, 2, 0, 4\]: no area"),
        (dict(proposal=[1, 2, "a", 4]), "proposal is .* not a list of numbers"),
        (dict(proposal=None), "proposal is None"),
        (dict(bbox=None), "give the file that was audited"),
    ],
)
def test_decisions_about_another_file_are_refused(audited, change, match):
    folder, path, findings = audited
    with pytest.raises(ValueError, match=match):
        apply_decisions(decide(folder, findings, **change), path, folder / "new.json")
    assert not (folder / "new.json").exists()


@pytest.mark.parametrize("decision", ["banana", "Accept", None, True, ["accept"]])
def test_what_is_no_decision_is_refused(audited, decision):
    folder, path, findings = audited
    with pytest.raises(ValueError, match=r"decision 0 is .*; expected accept or reject"):
        apply_decisions(decide(folder, findings, decision=decision), path, folder / "new.json")
    assert not (folder / "new.json").exists()


@pytest.mark.parametrize(
    ("ids", "new"),
    [
        ([1, 2, 3], 4),
        ([1.0, 2.0, 3.0], 4),  # as pandas writes them
        ([1, 7.0, 3], 8),
        ([1.5, 2.5, 0.5], 3),
        ([float("nan"), 5.0, 2.0], 6),
        ([2.0, 5.0, float("inf")], 6),
        ([2**62, 1.0, "x"], 2**62 + 1),
        (["a", "b", "c"], 1),
        ([None, 4.0, None], 5),
    ],
)
def test_a_new_object_has_an_id_of_its_own(tmp_path, ids, new):
    path = write_data(tmp_path, images=1, boxes=3)
    before = content(path)
    for row, number in zip(before["annotations"], ids, strict=True):
        row["id"] = number
    path.write_text(json.dumps(before))
    one = dict(kind="missing", decision="accept", image_id=1, category_id=1, bbox=[5, 5, 20, 20])
    (tmp_path / "accepted.json").write_text(json.dumps(dict(decisions=[one, one])))
    apply_decisions(tmp_path / "accepted.json", path, tmp_path / "new.json")
    after = [each["id"] for each in content(tmp_path / "new.json")["annotations"]]
    assert after[-2:] == [new, new + 1]
    assert not {new, new + 1} & set(ids)


def test_files_of_decisions(audited):
    folder, path, _ = audited
    with pytest.raises(FileNotFoundError):
        apply_decisions(folder / "none.json", path, folder / "new.json")
    (folder / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="no decisions"):
        apply_decisions(folder / "other.json", path, folder / "new.json")


@pytest.mark.parametrize(
    ("decision", "match"),
    [
        (3, "decision 1 is 3; expected a mapping"),
        (dict(image_id="nowhere"), "has no image_id 'nowhere'"),
        (dict(image_id=[1]), r"has no image_id \[1\]"),
        (dict(category_id=None), "has no category_id None"),
        (dict(category_id=99), "has no category_id 99"),
        (dict(bbox=[1, 1, "a", 2]), "bbox is .* not a list of numbers"),
    ],
)
def test_missing_objects_that_do_not_fit_are_refused(audited, decision, match):
    folder, path, findings = audited
    made = content(decide(folder, findings))
    if isinstance(decision, dict):
        decision = {**made["decisions"][2], **decision}
    made["decisions"].insert(1, decision)
    (folder / "accepted.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match=match):
        apply_decisions(folder / "accepted.json", path, folder / "new.json")
    assert not (folder / "new.json").exists()


def test_rows_that_are_no_annotations_stay(audited):
    folder, path, findings = audited
    changed = content(path)
    changed["annotations"].append(None)
    path.write_text(json.dumps(changed))
    apply_decisions(decide(folder, findings), path, folder / "new.json")
    assert None in content(folder / "new.json")["annotations"]


def test_a_mask_stays_and_is_counted(audited):
    folder, path, findings = audited
    changed = content(path)
    row = changed["annotations"][findings.boxes[0]["row"]]
    row["segmentation"], row["area"] = [[1, 1, 2, 1, 2, 2]], 0.5
    path.write_text(json.dumps(changed))
    done = apply_decisions(decide(folder, findings), path, folder / "new.json")
    assert done["with_masks"] == 1
    new = next(
        each
        for each in content(folder / "new.json")["annotations"]
        if each["id"] == findings.boxes[0]["id"]
    )
    assert new["segmentation"] == row["segmentation"]
    assert new["area"] == 0.5


def test_tasks_have_what_is_not_audited_too(tmp_path):
    """Crowds, other categories, images that were not scored or cannot be read: none is lost."""
    path = write_data(tmp_path)
    before = content(path)
    rows = before["annotations"]
    rows[0]["iscrowd"] = 1
    rows[1]["category_id"] = 7
    before["categories"].append(dict(id=7, name="cow"))
    path.write_text(json.dumps(before))
    broken = tmp_path / before["images"][-1]["file_name"]
    broken.write_bytes(b"no image")
    annotations = read_annotations(path, tmp_path, CLASSES)
    scored = {k: v for k, v in some_results(annotations).items() if k < 3}
    tasks = label_studio(annotations, find(annotations, scored), 0.5)
    regions = [each for task in tasks for each in task["annotations"][0]["result"]]
    assert [each["id"] for each in regions] == [f"box-{k}" for k in range(len(rows))]
    names = {each["id"]: each["name"] for each in before["categories"]}
    for row, region in zip(rows, regions):
        value = region["value"]
        found = [value["x"] * 1.6, value["y"] * 1.2, value["width"] * 1.6, value["height"] * 1.2]
        assert found == pytest.approx(row["bbox"])
        assert value["rectanglelabels"] == [names[row["category_id"]]]


def test_decisions_about_ids_that_a_browser_rounds_are_applied(tmp_path):
    """A page's numbers have 53 bits, and some data sets hash their images to 63."""
    path = write_data(tmp_path, ids=lambda i: 2**62 + i)
    rows = content(path)
    rows["annotations"][0]["id"] = 2**61 + 1
    path.write_text(json.dumps(rows))
    first, image = rows["annotations"][0], rows["images"][2]
    decisions = [
        dict(kind="box", row=0, id=float(2**61 + 1), bbox=first["bbox"], proposal=[1, 2, 30, 40]),
        dict(kind="missing", image_id=image["id"], category_id=1, bbox=[5, 5, 20, 20]),
    ]
    saved = tmp_path / "accepted.json"
    saved.write_text(json.dumps(dict(decisions=[dict(d, decision="accept") for d in decisions])))
    done = apply_decisions(saved, path, tmp_path / "new.json")
    assert (done["moved"], done["added"]) == (1, 1)
    after = content(tmp_path / "new.json")["annotations"]
    assert (after[0]["id"], after[0]["bbox"]) == (2**61 + 1, [1, 2, 30, 40])
    assert after[-1]["image_id"] == image["id"]
