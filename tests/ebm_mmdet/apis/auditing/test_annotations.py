"""What of an annotation file is audited, and what is said about the rest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ebm_mmdet.apis.auditing.annotations import read_annotations
from ebm_mmdet.apis.auditing.findings import find
from tests.ebm_mmdet.apis.auditing.some_findings import CLASSES, some_results, write_data


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_string_ids_and_blanks(tmp_path):
    path = write_data(tmp_path / "a folder", ids=lambda i: f"scan-{i}")
    found = read_annotations(path, path.parent, CLASSES)
    assert found.count == 30
    assert found.images[0].image.id == "scan-1"
    assert found.images[0].image.size == (160, 120)
    assert found.category_ids == [1, 2]
    assert not found.complaints.lines()
    first = json.loads(path.read_text())["annotations"][0]["bbox"]
    np.testing.assert_array_equal(
        found.images[0].boxes[0],
        [first[0], first[1], first[0] + first[2], first[1] + first[3]],
    )


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("iscrowd", 1, "a crowd"),
        ("ignore", 1, "a crowd"),
        ("bbox", [5, 5, 0, 10], "no area"),
        ("bbox", [5, 5, -3, 10], "width or height is negative"),
        ("bbox", [5, 5, 9, 9, 0.3], "a rotated box"),
        ("bbox", [5, float("nan"), 9, 9], "a coordinate is not finite"),
        ("bbox", None, "bbox is not a list"),
        ("bbox", [500, 5, 9, 9], "outside the image"),
        ("category_id", 7, "the detector does not have the category"),
        ("category_id", None, "the detector does not have the category"),
        ("category_id", [1], "the detector does not have the category"),
        ("image_id", 99, "the image id is not known"),
        ("image_id", "1", "the image id is not known"),
        ("image_id", [1], "the image id is not known"),
        ("image_id", {}, "the image id is not known"),
    ],
)
def test_what_is_not_audited_is_counted_by_reason(tmp_path, key, value, reason):
    path = write_data(tmp_path)

    def change(content):
        content["categories"].append(dict(id=7, name="cow"))
        for number in (0, 3):
            content["annotations"][number][key] = value

    edit(path, change)
    found = read_annotations(path, tmp_path, CLASSES)
    assert found.count == 28
    (line,) = found.complaints.lines()
    assert line.startswith(f"2 boxes: {reason}")
    assert "annotations[0]" in line


def test_boxes_that_are_not_audited_are_no_missing_objects(tmp_path):
    path = write_data(tmp_path)
    edit(path, lambda content: content["annotations"][0].update(iscrowd=1))
    found = read_annotations(path, tmp_path, CLASSES)
    assert found.images[0].others.shape == (1, 4)
    assert len(found.images[0].boxes) == 4


def test_images_that_are_absent_broken_or_of_another_size(tmp_path):
    path = write_data(tmp_path)
    (tmp_path / "im 1.png").unlink()
    (tmp_path / "im 2.png").write_bytes(b"no image")
    edit(path, lambda content: content["images"][2].update(width=320))
    found = read_annotations(path, tmp_path, CLASSES)
    assert found.count == 15
    text = "\n".join(found.complaints.lines())
    for reason in ("not in the folder", "cannot be read", "160 x 120, not 320 x 120"):
        assert reason in text


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.95, 0.5])
def test_images_that_are_cut_off(tmp_path, ending, kept):
    path = write_data(tmp_path, images=2)
    for k in (1, 2):
        Image.open(tmp_path / f"im {k}.png").save(tmp_path / f"im {k}.{ending}")
    whole = (tmp_path / f"im 1.{ending}").read_bytes()
    (tmp_path / f"im 1.{ending}").write_bytes(whole[: int(kept * len(whole))])

    def change(content):
        for image in content["images"]:
            image["file_name"] = image["file_name"].replace("png", ending)

    edit(path, change)
    found = read_annotations(path, tmp_path, CLASSES)
    assert [each.image.id for each in found.images] == [2]
    (line,) = found.complaints.lines()
    assert line.startswith("5 boxes: the image cannot be read")


def test_the_cameras_orientation_counts(tmp_path):
    path = write_data(tmp_path, images=1)
    picture = Image.open(tmp_path / "im 1.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "im 1.jpg", exif=exif)
    edit(path, lambda content: content["images"][0].update(file_name="im 1.jpg"))
    assert read_annotations(path, tmp_path, CLASSES).images[0].image.size == (160, 120)


def test_files_that_cannot_be_audited(tmp_path):
    path = write_data(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_annotations(tmp_path / "none.json", tmp_path, CLASSES)
    match = "ape, bat.*cow.*none is the same. The checkpoint names the classes.*a copy of the file"
    with pytest.raises(ValueError, match=match):
        read_annotations(path, tmp_path, ["cow"])
    with pytest.raises(ValueError, match="not in the folder"):
        read_annotations(path, tmp_path / "elsewhere", CLASSES)
    edit(path, lambda content: content["categories"].append(dict(id=3)))
    with pytest.raises(ValueError, match=r"categories\[2\] is \{'id': 3\}; expected"):
        read_annotations(path, tmp_path, CLASSES)
    edit(path, lambda content: content["categories"].pop())
    edit(path, lambda content: content["images"][1].update(id=[2]))
    with pytest.raises(ValueError, match=r"images\[1\] has id \[2\]; expected a number"):
        read_annotations(path, tmp_path, CLASSES)
    edit(path, lambda content: content["images"][1].update(id=1))
    with pytest.raises(ValueError, match="which another one has too"):
        read_annotations(path, tmp_path, CLASSES)
    path.write_text("[]")
    with pytest.raises(ValueError, match="COCO's format"):
        read_annotations(path, tmp_path, CLASSES)


@pytest.mark.parametrize("several", [True, False])
def test_without_classes_every_category_has_the_label_0(tmp_path, several):
    path = write_data(tmp_path)

    def rename(content):
        for category, name in zip(content["categories"], ("cell", "debris")):
            category["name"] = name
        if not several:
            content["categories"].pop()
            for row in content["annotations"]:
                row["category_id"] = 1

    edit(path, rename)
    with pytest.raises(ValueError, match="none is the same.*or audit without classes"):
        read_annotations(path, tmp_path, CLASSES)
    found = read_annotations(path, tmp_path, CLASSES, class_blind=True)
    assert found.count == 30
    assert not found.complaints.lines()
    assert {label for each in found.images for label in each.labels.tolist()} == {0}
    # An object without annotation is of the only category, if there is one; else nobody knows.
    results = some_results(found)
    for each in results.values():
        each["missing"]["label"] = [0]
    findings = find(found, results)
    missing = {(each["category_id"], each["category"]) for each in findings.missing}
    assert missing == (set() if several else {(1, "cell")})
    rows = found.content["annotations"]
    for each in findings.boxes:
        assert each["category"] == ("cell", "debris")[rows[each["row"]]["category_id"] - 1]
