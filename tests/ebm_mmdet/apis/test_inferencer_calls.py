"""Calls that go on, and calls, checkpoints and models that are refused before any work."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

import ebm_mmdet.regression  # noqa: F401  (as the custom_imports of such a config)
from ebm_mmdet.apis import EBMInferencer, refine_file
from ebm_mmdet.commands import main
from ebm_mmdet.engine import CheckpointError
from tests.ebm_mmdet.apis.user_project import TWO_STAGE, make_project, make_refined_project

QUIET = dict(device="cpu", show_progress=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return make_refined_project(tmp_path_factory.mktemp("user") / "my work")


@pytest.fixture(scope="module")
def infer(project) -> EBMInferencer:
    return EBMInferencer(project / "ebm.py", project / "best.pth", **QUIET)


@pytest.fixture
def data(project, tmp_path) -> Path:
    return Path(shutil.copytree(project / "data", tmp_path / "data"))


def interrupt(infer: EBMInferencer, inputs, out: Path, done: int) -> None:
    """Call, and press Ctrl-C when some images are done."""
    forward, seen = infer.forward, []

    def interrupted(*args, **kwargs):
        if len(seen) == done:
            raise KeyboardInterrupt
        seen.append(1)
        return forward(*args, **kwargs)

    with patch.object(infer, "forward", interrupted), pytest.raises(KeyboardInterrupt):
        infer(inputs, out_dir=out, no_save_vis=True)


def predicted(infer: EBMInferencer, inputs, out: Path) -> tuple[list[dict], int]:
    """Predictions of a call that goes on, and how many images it ran."""
    with patch.object(infer, "forward", wraps=infer.forward) as forward:
        rows = infer(inputs, out_dir=out, no_save_vis=True)["predictions"]
    return rows, forward.call_count


def test_arrays_of_an_interrupted_call_are_not_those_of_another(infer, data, tmp_path):
    first = cv2.imread(str(data / "im 1.png"))
    images = [first, first[::-1].copy(), first[:, ::-1].copy()]
    for kind in (lambda image: image, lambda image: dict(img=image)):
        out = tmp_path / kind(images[0]).__class__.__name__
        interrupt(infer, [kind(image) for image in images], out, done=2)
        others = [images[0], 255 - images[1], images[2]]  # the second is another one
        rows, ran = predicted(infer, [kind(image) for image in others], out)
        assert ran == 2
        assert [row["bboxes"] for row in rows] == [
            row["bboxes"] for row in infer(others)["predictions"]
        ]


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_file_that_was_replaced_is_predicted_again(infer, data, tmp_path, dictionary):
    paths = sorted(map(str, data.glob("*.png")))
    given = [dict(img_path=path) for path in paths] if dictionary else paths
    interrupt(infer, given, tmp_path / "out", done=2)
    cv2.imwrite(paths[0], np.full((200, 300, 3), 77, np.uint8))
    rows, ran = predicted(infer, given, tmp_path / "out")
    assert ran == 2
    assert [row["bboxes"] for row in rows] == [row["bboxes"] for row in infer(given)["predictions"]]
    (first, *_) = json.loads((tmp_path / "out" / "coco.json").read_text())["images"]
    assert (first["width"], first["height"]) == (300, 200)


def test_records_without_a_digest_are_done_again(infer, data, tmp_path):
    """Those of earlier versions."""
    interrupt(infer, data, tmp_path / "out", done=2)
    for path in (tmp_path / "out" / "unfinished" / "images").iterdir():
        record = json.loads(path.read_text())
        del record["digest"]
        path.write_text(json.dumps(record))
    assert predicted(infer, data, tmp_path / "out")[1] == 3


def test_an_image_that_was_repaired_is_done_alone(project, data, tmp_path, capsys):
    whole = (data / "im 2.png").read_bytes()
    (data / "im 2.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    call = ["predict", str(project / "ebm.py"), str(project / "best.pth"), str(data)]
    call += ["--out-dir", str(out), "--device", "cpu", "--no-pictures"]
    for _ in range(2):  # not repaired yet
        assert main(call) == 1
        assert "1 images could not be read, see above; once they can" in capsys.readouterr().err
        assert len(json.loads((out / "coco.json").read_text())["images"]) == 2
    assert main([*call, "--no-refine"]) == 1
    assert "another refine" in capsys.readouterr().err
    (data / "im 2.png").write_bytes(whole)
    with patch.object(EBMInferencer, "forward", autospec=True) as forward:
        forward.side_effect = KeyboardInterrupt
        assert main(call) == 130
        assert forward.call_count == 1
    assert main(call) == 0
    content = json.loads((out / "coco.json").read_text())
    assert [Path(each["file_name"]).name for each in content["images"]] == [
        "im 1.png",
        "im 2.png",
        "im 3.png",
    ]
    assert [path.name for path in out.iterdir()] == ["coco.json"]
    assert main(call) == 1  # nothing is left to do
    assert "is not empty" in capsys.readouterr().err


def test_all_images_unreadable_and_then_repaired(infer, data, tmp_path):
    path = str(data / "im 1.png")
    whole = Path(path).read_bytes()
    Path(path).write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="is left out"):
        assert infer(path, out_dir=tmp_path / "out")["predictions"] == []
    Path(path).write_bytes(whole)
    assert len(infer(path, out_dir=tmp_path / "out")["predictions"]) == 1
    assert not (tmp_path / "out" / "unfinished").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        dict(refine_steps=-3),
        dict(refine_steps=1.5),
        dict(batch_size=0),
        dict(batch_size=-1),
        dict(batch_size=2.5),
        dict(no_such_option=1),
        dict(refine=False, refine_steps=2),
    ],
    ids=str,
)
def test_wrong_input_leaves_the_folder_to_the_correct_call(infer, data, tmp_path, wrong):
    out, path = tmp_path / "out", str(data / "im 1.png")
    (name, *_) = reversed(wrong)
    with pytest.raises(ValueError, match=name if name != "refine_steps" else "refine"):
        infer(path, out_dir=out, **wrong)
    assert not out.exists()
    assert len(infer(path, out_dir=out)["predictions"]) == 1


def test_a_failure_of_the_first_batch_leaves_the_folder_too(infer, data, tmp_path):
    failing = patch.object(infer, "forward", side_effect=RuntimeError("out of memory"))
    with failing, pytest.raises(RuntimeError, match="out of memory"):
        infer(data, out_dir=tmp_path / "out", refine_steps=9)
    assert len(infer(data, out_dir=tmp_path / "out")["predictions"]) == 3


def test_a_folder_that_cannot_be_made_is_said_before_any_work(infer, data, tmp_path):
    (tmp_path / "file").write_text("")
    watched = patch.object(infer, "forward")
    with watched as forward, pytest.raises(NotADirectoryError, match="file is a file"):
        infer(data, out_dir=tmp_path / "file" / "out")
    forward.assert_not_called()


def test_overlapping_patterns_give_one_result_for_each_image(infer, data, tmp_path):
    given = [str(data / "*.png"), str(data / "im 1.png"), str(data / "im [12]*")]
    call = dict(ann_file=data / "boxes.json", no_save_vis=True)
    with pytest.warns(UserWarning, match="3 images are named again"):
        infer(given, out_dir=tmp_path / "a", **call)
    infer(data, out_dir=tmp_path / "b", **call)
    first, second = (
        json.loads((tmp_path / name / "results.bbox.json").read_text()) for name in "ab"
    )
    assert first == second


def test_two_images_with_one_id_are_refused(infer, data, tmp_path):
    """By their last names they are one image of the annotation file."""
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(data / "im 1.png", other / "im 1.png")
    with pytest.raises(ValueError, match=r"data/im 1\.png and .*other/im 1\.png are one .*id 71"):
        infer([data, other], out_dir=tmp_path / "out", ann_file=data / "boxes.json")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def two_stage(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("other") / "project", TWO_STAGE)


def test_a_checkpoint_that_does_not_fit_is_refused(project, two_stage, data, tmp_path, capsys):
    state = torch.load(project / "best.pth", weights_only=True)["state_dict"]
    lacking = {key: value for key, value in state.items() if "retina_reg" not in key}
    torch.save(dict(state_dict=lacking), tmp_path / "lacking.pth")
    half = {key: value for key, value in state.items() if "energy_head.fc" not in key}
    torch.save(dict(state_dict=half), tmp_path / "half.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    out = tmp_path / "out"
    for config, weights, said in (
        (project / "my_detector.py", project / "best.pth", "are not the model's: detector."),
        (two_stage / "my_detector.py", project / "epoch_12.pth", "rpn_head.rpn_conv.weight"),
        (project / "ebm.py", two_stage / "epoch_12.pth", "are not the model's"),
        (project / "ebm.py", tmp_path / "lacking.pth", "retina_reg"),
        (project / "ebm.py", tmp_path / "half.pth", "energy_head.fc_energy"),
        (project / "ebm.py", tmp_path / "list.pth", "it has no state_dict"),
    ):
        call = ["predict", str(config), str(weights), str(data), "--out-dir", str(out)]
        for more in ([], ["--no-refine"]):
            assert main([*call, "--device", "cpu", *more]) == 1
            error = capsys.readouterr().err
            assert f"{weights} does not fit the model of the config: " in error
            assert said in error
    assert not out.exists()


def test_a_head_that_was_never_trained_moves_no_box(project, data, tmp_path, capsys):
    weights, out = project / "epoch_12.pth", tmp_path / "out"
    call = ["predict", str(project / "ebm.py"), str(weights), str(data), "--out-dir", str(out)]
    call += ["--device", "cpu", "--no-pictures"]
    for more in ([], ["--refine-steps", "0"]):
        assert main([*call, *more]) == 1
        assert f"{weights} has no energy head (energy_head.*)" in capsys.readouterr().err
    assert not out.exists()
    assert main([*call, "--no-refine"]) == 0
    cfg = Config.fromfile(project / "ebm.py")
    plain = EBMInferencer(project / "my_detector.py", weights, **QUIET)(data)["predictions"]
    expected = [row["bboxes"] for row in plain]
    cfg.model.refiner = None
    rows = EBMInferencer(cfg, weights, **QUIET)(data)["predictions"]
    assert [row["bboxes"] for row in rows] == expected
    # Candidates are chosen by f, also without a refinement.
    cfg.model.candidates = dict(type="EnergyGuidedNMS")
    chosen = EBMInferencer(cfg, weights, **QUIET)
    with pytest.raises(CheckpointError, match="has no energy head"):
        chosen(data, refine=False)
    boxes = data / "boxes.json"
    with pytest.raises(CheckpointError, match="has no energy head"):
        refine_file(project / "ebm.py", weights, data, boxes, tmp_path / "o.json", device="cpu")
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize("kind", ["module.", "_orig_mod.", "ema_", "bare", "no meta"])
def test_every_way_to_save_a_checkpoint_gives_the_same_boxes(infer, project, tmp_path, kind):
    content = torch.load(project / "best.pth", weights_only=True)
    state = content["state_dict"]
    if kind == "ema_":  # mmdet 2 keeps its second copy beside the weights
        state |= {f"ema_{key.replace('.', '_')}": value * 0 for key, value in state.items()}
    elif kind == "no meta":
        content["meta"] = None
    elif kind == "bare":
        content = state
    else:
        content["state_dict"] = {kind + key: value for key, value in state.items()}
    torch.save(content, tmp_path / "w.pth")
    loaded = EBMInferencer(project / "ebm.py", tmp_path / "w.pth", **QUIET)
    image = str(project / "data" / "im 1.png")
    assert loaded(image)["predictions"] == infer(image)["predictions"]


def test_without_weights_a_warning_says_so(project):
    with pytest.warns(UserWarning, match="Checkpoint is not loaded"):
        infer = EBMInferencer(project / "ebm.py", None, **QUIET)
    assert len(infer(str(project / "data" / "im 1.png"))["predictions"]) == 1


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("ImageRegressor", r"'ImageRegressor' is no detector, .*tools/test\.py .*--show-dir"),
        ("BaseReID", "'BaseReID' is no detector"),
        ("QDTrack", "QDTrack tracks objects in videos"),
    ],
)
def test_a_model_that_is_no_detector_is_refused(project, data, tmp_path, capsys, kind, said):
    cfg = Config.fromfile(project / "my_detector.py")
    cfg.model = dict(type=kind)
    cfg.dump(tmp_path / "other.py")
    call = ["predict", str(tmp_path / "other.py"), str(tmp_path / "w.pth"), str(data)]
    assert main([*call, "--out-dir", str(tmp_path / "out")]) == 1
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
