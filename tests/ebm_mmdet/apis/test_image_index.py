"""Which file of a folder an image of a listing, or of an id, is."""

from __future__ import annotations

import pytest
from PIL import Image

from ebm_mmdet.apis.auditing.annotations import read_annotations
from ebm_mmdet.apis.image_index import images_by_id, listed_images, look_at
from ebm_mmdet.files import write_json


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(folder / name)
    return folder


def listed(folder, *names):
    content = dict(images=[dict(id=i, file_name=name) for i, name in enumerate(names)])
    found = listed_images(content, folder).values()
    return [each.path and each.path.relative_to(folder).as_posix() for each in found]


def by_id(folder, *ids):
    found = images_by_id(ids, folder)
    return [found[key].path and found[key].path.relative_to(folder).as_posix() for key in ids]


@pytest.mark.parametrize(
    ("files", "names", "expected"),
    [
        (["1.png"], ["a/1.png", "b/1.png"], [None, None]),
        (["1.png"], ["a/1.png", "1.png"], [None, "1.png"]),
        (["1.png", "b/1.png"], ["a/1.png", "b/1.png"], [None, "b/1.png"]),
        (["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"]),
        (["1.png", "2.png"], ["a/1.png", "b/2.png"], ["1.png", "2.png"]),
        (["1.png"], ["a/1.png", "a/./1.png"], ["1.png", "1.png"]),  # one name, listed twice
    ],
)
def test_the_last_part_of_a_name_counts_where_it_is_of_one_image(tmp_path, files, names, expected):
    write(tmp_path, *files)
    assert listed(tmp_path, *names) == expected


@pytest.mark.parametrize(
    ("files", "ids", "expected"),
    [
        (["1.png"], ["a/1.png", "b/1.png"], [None, None]),
        (["1.png"], ["a/1.png", "1.png"], [None, "1.png"]),
        (["1.png"], ["data/1.png"], ["1.png"]),
        (["a/1.png", "b/1.png"], ["data/a/1.png", "data/b/1.png"], ["a/1.png", "b/1.png"]),
        (["000012.png"], [12, 13], ["000012.png", None]),
    ],
)
def test_a_path_without_its_first_folder_counts_where_it_is_of_one_id(
    tmp_path, files, ids, expected
):
    write(tmp_path, *files)
    assert by_id(tmp_path, *ids) == expected


def test_an_image_whose_file_may_be_that_of_another_is_said_to_be_absent(tmp_path):
    write(tmp_path, "1.png", "2.png")
    images = [dict(id=i, file_name=name) for i, name in enumerate(("a/1.png", "b/1.png", "2.png"))]
    box = dict(category_id=1, bbox=[1, 1, 4, 3])
    annotations = [dict(box, id=i, image_id=i) for i in range(3)]
    categories = [dict(id=1, name="ape")]
    path = tmp_path / "ann.json"
    write_json(path, dict(images=images, annotations=annotations, categories=categories))
    found = read_annotations(path, tmp_path, ["ape"])
    assert [each.image.name for each in found.images] == ["2.png"]
    (line,) = found.complaints.lines()
    assert line.startswith("2 boxes: the image is not in the folder")
    absent = listed_images(dict(images=images), tmp_path)[0]
    assert look_at(absent)[1] == "the image is not in the folder: a/1.png"
