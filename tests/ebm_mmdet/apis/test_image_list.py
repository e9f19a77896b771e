"""What counts as an image, as another one, and as the same one."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from ebm_mmdet.apis.image_list import image_digest, list_images

ARRAY = np.zeros((4, 5, 3), np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two images, which nothing here reads, and a text."""
    data = tmp_path / "my data"
    data.mkdir()
    for name in ("im 1.png", "im 2.JPG", "boxes.json"):
        (data / name).write_bytes(name.encode())
    return data


def test_images_of_every_kind_are_found(folder, tmp_path):
    paths = [str(folder / "im 1.png"), str(folder / "im 2.JPG")]
    assert list_images(folder) == list_images(str(folder)) == paths  # and not boxes.json
    assert list_images(str(folder / "im [1]*")) == paths[:1]
    assert list_images([Path(paths[1]), [paths[0]]]) == paths[::-1]
    assert list_images(ARRAY)[0] is ARRAY
    assert list_images(dict(img_path=paths[0])) == [dict(img_path=paths[0])]
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "no.png", str(tmp_path / "*.png")):
        with pytest.raises(FileNotFoundError, match=r"has no image|there is no image"):
            list_images(nothing)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 5), np.uint8), TypeError, r"shape \(4, 5\); expected .*GRAY2BGR"),
        (np.zeros((4, 5, 4), np.uint8), TypeError, r"shape \(4, 5, 4\); expected \(H, W, 3\)"),
        (np.zeros((4, 5, 3), np.float32), TypeError, r"array of float32; expected uint8.*255"),
        (np.zeros((4, 5, 3), np.uint16), TypeError, "array of uint16; expected uint8.*257"),
        (np.zeros((4, 5, 3), np.int64), TypeError, "array of int64"),
        (np.zeros((4, 5, 3), bool), TypeError, "array of bool"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, r"shape \(0, 5, 3\), which has no pixels"),
        (np.zeros((4, 0, 3), np.uint8), ValueError, "which has no pixels"),
    ],
)
def test_an_array_that_is_no_image_is_refused_before_any_work(image, error, message):
    for given in (image, [ARRAY, image], dict(img=image), [dict(img=image, text="cat")]):
        with pytest.raises(error, match=message):
            list_images(given)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3, "an input is int"),
        (dict(img="a.png"), "an image is str"),
        (dict(text="cat"), "a dictionary of text; expected img_path"),
        (dict(), "a dictionary of nothing"),
    ],
)
def test_what_is_no_image_at_all(image, message):
    with pytest.raises(TypeError, match=message):
        list_images([image])


def test_a_file_that_is_named_twice_is_there_once(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    os.symlink(folder, tmp_path / "link")
    first, second = (str(folder / name) for name in ("im 1.png", "im 2.JPG"))
    names = [folder, first, str(folder / "*1*"), "im 1.png", "./im 1.png", Path(first)]
    names += [tmp_path / "link", dict(img_path=first)]
    with pytest.warns(UserWarning, match=r"8 images are named again, such as .*im 1\.png") as said:
        assert list_images(names) == [first, second]
    assert len(said) == 1
    with pytest.warns(UserWarning, match="1 image is named again"):
        assert list_images(["http://a/b.png", "http://a/b.png"]) == ["http://a/b.png"]


def test_others_are_not_the_same_image(folder):
    """Equal arrays, two prompts for a file, and links to a file, which may be in a list each."""
    os.symlink(folder / "im 1.png", folder / "im 3.png")
    path = str(folder / "im 1.png")
    prompts = [dict(img_path=path, text=text) for text in ("cat", "dog")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list_images([ARRAY, ARRAY, *prompts, folder])) == 7


def test_a_digest_tells_other_content(folder):
    path = folder / "im 1.png"
    changed = ARRAY.copy()
    changed[3, 4, 2] = 1
    images = [
        ARRAY,
        changed,
        ARRAY.reshape(5, 4, 3),
        dict(img=ARRAY),
        dict(img=ARRAY, text="cat"),
        dict(img=ARRAY, text="dog"),
        str(path),
        dict(img_path=path),
    ]
    before = [image_digest(image) for image in images]
    assert len(set(before)) == len(images)
    assert before == [image_digest(image) for image in images]
    assert image_digest(np.asfortranarray(changed)) == image_digest(changed)
    stamps = path.stat()
    path.write_bytes(b"another1")  # as long, and as old
    os.utime(path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    after = [image_digest(image) for image in images]
    assert [a == b for a, b in zip(before, after)] == [True] * 6 + [False] * 2
    with pytest.raises(FileNotFoundError):
        image_digest(str(folder / "no.png"))
