"""The published files: made-up ones of the same format, and broken ones."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="ebm_mmdet.regression needs mmdet")
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from ebm_mmdet.regression.datasets import (
    PRESETS,
    ArrayFileError,
    RegressionArrayDataset,
    TargetError,
)

h5py = pytest.importorskip("h5py")

NUM = 20


def colours(seed=0):
    """Images (N, 3, 64, 64) uint8 of one colour each, in the order R, G, B."""
    pixels = np.random.default_rng(seed).integers(0, 256, (NUM, 3, 1, 1), dtype=np.uint8)
    return np.broadcast_to(pixels, (NUM, 3, 64, 64)).copy()


def write_h5(path, **content):
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            file.create_dataset(key, data=value)
    return str(path)


def write_steering(folder):
    labels = np.linspace(-88.13, 97.92, NUM)
    return write_h5(folder / "SteeringAngle_64x64.h5", images=colours(), labels=labels)


def write_cell200(folder):
    counts = np.arange(1, NUM + 1, dtype=np.float64)
    grey = colours()[:, :1]
    return write_h5(folder / "Cell200_64x64.h5", IMGs_grey=grey, CellCounts=counts)


def write_utkface(folder):
    ages = np.concatenate([np.arange(1, NUM - 1), [61, 110]]).astype(np.int32)
    return write_h5(folder / "UTKFace_64x64.h5", images=colours(), labels=ages)


def write_biwi(folder):
    pose = np.random.default_rng(1).uniform(-60, 60, (NUM, 3))
    bgr = colours()[:, ::-1].transpose(0, 2, 3, 1)
    path = folder / "BIWI_train.npz"
    np.savez(path, image=bgr, pose=pose, img_size=64)
    return str(path)


def first_image(dataset, index=0):
    return dataset[index]["img"][0, 0].tolist()


def test_steering(tmp_path):
    init_default_scope("mmdet")
    dataset = DATASETS.build(
        {
            "type": "RegressionArrayDataset",
            "data_file": "SteeringAngle_64x64.h5",
            "data_root": str(write_steering(tmp_path) and tmp_path),
            "preset": "steering",
            "pipeline": [{"type": "PackRegressionInputs"}],
        }
    )
    assert len(dataset) == NUM
    packed = dataset[3]
    red, green, blue = colours()[3, :, 0, 0].tolist()
    assert packed["inputs"][:, 5, 5].tolist() == [blue, green, red]  # BGR
    assert packed["data_samples"].gt_target.item() == pytest.approx(
        np.linspace(-88.13, 97.92, NUM)[3]
    )
    assert dataset.metainfo["target"]["flip_signs"] == (-1.0,)


def test_cell200_is_grey(tmp_path):
    dataset = RegressionArrayDataset(
        write_cell200(tmp_path),
        "cell200",
        split={"part": "test", "parts": {"train": 10, "val": 2, "test": 8}},
    )
    assert len(dataset) == 8
    info = dataset.get_data_info(0)
    value = int(colours()[info["number"], 0, 0, 0])
    assert first_image(dataset) == [value] * 3
    assert dataset.metainfo["target"]["integer"] is True
    flat = write_h5(tmp_path / "flat.h5", images=colours()[:, 0], labels=np.ones(NUM))
    dataset = RegressionArrayDataset(flat, metainfo={"target": {"ranges": ((0, 2),)}})
    assert first_image(dataset, 1) == [int(colours()[1, 0, 0, 0])] * 3


def test_utkface_leaves_out_ages_above_sixty(tmp_path):
    path = write_utkface(tmp_path)
    assert len(RegressionArrayDataset(path, "utkface")) == NUM - 2
    with pytest.raises(TargetError, match=r"labels\[18\].*'age' is 61.*1 .. 60"):
        RegressionArrayDataset(path, "utkface", only_in_range=False)


@pytest.mark.parametrize("periods", [None, (360.0, None)])
def test_only_in_range_keeps_angles_of_any_value(tmp_path, periods):
    labels = np.array([[10, 1], [200, 2], [-500, 3], [90, 11]], float)
    np.savez(tmp_path / "own.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=labels)
    target = dict(ranges=((-180, 180), (0, 10)), periods=periods)
    settings = dict(metainfo=dict(target=target), data_root=str(tmp_path))
    dataset = RegressionArrayDataset("own.npz", only_in_range=True, **settings)
    found = [dataset.get_data_info(i)["gt_target"].tolist() for i in range(len(dataset))]
    assert found == (labels[:3] if periods else labels[:1]).tolist()


def test_biwi_pixels_are_bgr(tmp_path):
    dataset = RegressionArrayDataset(write_biwi(tmp_path), "biwi")
    red, green, blue = colours()[0, :, 0, 0].tolist()
    assert first_image(dataset) == [blue, green, red]
    assert dataset.get_data_info(0)["gt_target"].shape == (3,)
    wrong = RegressionArrayDataset(write_biwi(tmp_path), "biwi", channel_order="rgb")
    assert first_image(wrong) == [red, green, blue]


@pytest.mark.parametrize("write", [write_steering, write_biwi])
def test_workers_copies_and_pickles_read_the_same(tmp_path, write):
    preset = "biwi" if write is write_biwi else "steering"
    dataset = RegressionArrayDataset(write(tmp_path), preset)
    expected = [dataset[i]["img"].copy() for i in range(6)]  # opens the file before the fork
    dataset[0]["img"][:] = 0  # a transform may write to it
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=pseudo_collate)
    images = [np.asarray(image) for batch in loader for image in batch["img"]]
    assert all(np.array_equal(a, b) for a, b in zip(images, expected))
    for other in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert np.array_equal(other[1]["img"], expected[1])
    part = dataset.get_subset([4, 1])
    assert np.array_equal(part[0]["img"], expected[4])


def test_groups_and_blocks(tmp_path):
    path = write_h5(
        tmp_path / "own.h5",
        pictures=colours(),
        ages=np.arange(NUM),
        people=np.array([f"p{i // 5}" for i in range(NUM)], "S"),
    )
    options = {
        "images_key": "pictures",
        "labels_key": "ages",
        "groups_key": "people",
        "layout": "NCHW",
        "metainfo": {"target": {"ranges": ((0, 100),)}},
    }
    for kind in ("group", "blocks"):
        split = {"kind": kind, "part": "test", "parts": {"train": 0.75, "test": 0.25}}
        dataset = RegressionArrayDataset(path, **options, split={**split})
        assert len(dataset) == 5
    assert RegressionArrayDataset(path, **options).get_data_info(7)["group"] == "p1"


@pytest.mark.parametrize("preset", list(PRESETS))
def test_missing_file_is_one_line_with_the_address(tmp_path, preset):
    suffix = ".npz" if preset == "biwi" else ".h5"
    with pytest.raises(ArrayFileError) as error:
        RegressionArrayDataset(str(tmp_path / f"none{suffix}"), preset)
    message = str(error.value)
    assert "\n" not in message
    assert "does not exist" in message
    assert "https://" in message
    assert repr(PRESETS[preset]["images_key"]) in message


def test_broken_and_wrong_files_are_named(tmp_path):
    whole = write_steering(tmp_path)
    content = Path(whole).read_bytes()
    cut = tmp_path / "cut.h5"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArrayFileError, match=r"cut.h5 is broken, .*https"):
        RegressionArrayDataset(str(cut), "steering")
    cut = tmp_path / "cut.npz"
    cut.write_bytes(Path(write_biwi(tmp_path)).read_bytes()[:5000])
    with pytest.raises(ArrayFileError, match=r"cut.npz is broken"):
        RegressionArrayDataset(str(cut), "biwi")
    with pytest.raises(ArrayFileError, match=r"no 'CellCounts'; it has 'images', 'labels'"):
        RegressionArrayDataset(whole, "cell200")
    with pytest.raises(ArrayFileError, match=r"1 numbers for each image, but the target has 3"):
        RegressionArrayDataset(whole, "biwi", images_key="images", labels_key="labels")
    short = write_h5(tmp_path / "short.h5", images=colours(), labels=np.zeros(3))
    with pytest.raises(ArrayFileError, match=r"3 labels in 'labels' and 20 images"):
        RegressionArrayDataset(short, "steering")
    nan = write_h5(tmp_path / "nan.h5", images=colours(), labels=np.full(NUM, np.nan))
    for preset in ("steering", "utkface"):
        with pytest.raises(TargetError, match=r"labels\[0\].*is nan"):
            RegressionArrayDataset(nan, preset)
    with pytest.raises(ArrayFileError, match=r"a.txt.*\.npz"):
        RegressionArrayDataset(str(tmp_path / "a.txt"), "steering")
    with pytest.raises(ValueError, match="preset='faces'"):
        RegressionArrayDataset(whole, "faces")
    wrong = RegressionArrayDataset(whole, "steering", layout="NHWC")
    with pytest.raises(ArrayFileError, match=r"shape \(3, 64, 64\).*Set layout"):
        wrong[0]


def test_missing_h5py_is_explained(tmp_path, monkeypatch):
    import sys

    path = write_steering(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        RegressionArrayDataset(path, "steering")
