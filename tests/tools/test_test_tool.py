"""tools/test.py: metrics, outputs that are not overwritten, pictures, augmentation; and errors."""

import importlib.util
import pickle
import re
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose, LoadImageFromFile, Pad
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import PackDetInputs
from mmdet.models.test_time_augs import DetTTAModel
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ebm_mmdet.engine import CompleteWeightsHook
from ebm_mmdet.engine.command_line import load_config, set_evaluation_metrics
from ebm_mmdet.engine.config_options import UsageError
from ebm_mmdet.evaluation import HighIoUCocoMetric
from tests.tools.tools_support import REPO, run


def tool(name):
    spec = importlib.util.spec_from_file_location(f"{name}_tool", REPO / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_eval_out_and_pictures(tiny_config, trained, tmp_path):
    out = tmp_path / "predictions.pkl"
    done = run(
        *(sys.executable, "tools/test.py", tiny_config, trained.checkpoint),
        *("--work-dir", tmp_path, "--eval", "bbox", "--out", out, "--show-dir", "pictures"),
        *("--cfg-options", "model.refiner.num_steps=1"),
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "coco/bbox_mAP_90" in done.stdout
    predictions = pickle.loads(out.read_bytes())
    assert [sample["img_id"] for sample in predictions] == [1, 2, 3, 4]
    instances = predictions[0]["pred_instances"]
    assert len(instances["log_density"]) == len(instances["bboxes"]) == 5
    assert instances["accepted_steps"].max() <= 1  # the override arrived
    assert len(list(tmp_path.rglob("pictures/*.png"))) == 4


def test_predictions_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    out = tmp_path / "predictions.pkl"
    metric = tool("test").DumpWholeResults(str(out))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        metric.compute_metrics([{"img_id": 1}])
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    metric.compute_metrics([{"img_id": 1}])
    assert pickle.loads(out.read_bytes()) == [{"img_id": 1}]


def test_test_time_augmentation(tiny_config, trained, tmp_path):
    done = run(
        *(sys.executable, "tools/test.py", tiny_config, trained.checkpoint, "--tta"),
        *("--work-dir", tmp_path),
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"coco/bbox_mAP: \d", done.stdout)
    assert "missing" not in done.stdout.partition("Load checkpoint")[2]


def test_default_augmentation_flips_the_image_and_not_its_padding():
    pad = dict(type="Pad", size=(8, 8))
    pipeline = [dict(type="LoadImageFromFile"), pad, dict(type="PackDetInputs")]
    cfg = Config(dict(model={}, test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    tool("test").use_test_time_augmentation(cfg)
    image = np.arange(8 * 5 * 3, dtype=np.uint8).reshape(8, 5, 3)
    data = dict(img=image, img_shape=(8, 5), ori_shape=(8, 5), img_id=0, img_path="")
    init_default_scope("mmdet")
    views = Compose(cfg.test_dataloader.dataset.pipeline[1:])(data)
    mirrored, plain = views["inputs"]
    # DetTTAModel mirrors boxes within `ori_shape`: the image must lie in the same corner.
    assert torch.equal(mirrored[:, :, :5], plain[:, :, :5].flip(2))
    assert [sample.flip for sample in views["data_samples"]] == [True, False]


def nested_test_sets() -> Config:
    """Two data sets of different pipelines, one of them in a wrapper."""
    load, pack = dict(type="LoadImageFromFile"), dict(type="PackDetInputs")
    plain = dict(type="CocoDataset", pipeline=[load, pack])
    padded = dict(type="CocoDataset", pipeline=[load, dict(type="Pad", size=(8, 8)), pack])
    wrapped = dict(type="RepeatDataset", times=1, dataset=padded)
    dataset = dict(type="ConcatDataset", datasets=[plain, wrapped])
    return Config(dict(model=dict(type="X"), test_dataloader=dict(dataset=dataset)))


@pytest.mark.parametrize("wrapped", [False, True])
def test_masks_are_refused_before_anything_is_predicted(wrapped):
    inner = dict(type="MaskRCNN", roi_head=dict(mask_head=dict(type="FCNMaskHead")))
    cfg = Config(dict(model=dict(type="EBMDetector", detector=inner) if wrapped else inner))
    path = "model.detector.roi_head.mask_head" if wrapped else "model.roi_head.mask_head"
    with pytest.raises(UsageError, match=rf"--tta.*--cfg-options {path}=None"):
        tool("test").use_test_time_augmentation(cfg)


def test_augmentation_reaches_every_data_set():
    cfg = nested_test_sets()
    tool("test").use_test_time_augmentation(cfg)
    plain, wrapped = cfg.test_dataloader.dataset.datasets
    steps = [[step["type"] for step in d.pipeline] for d in (plain, wrapped.dataset)]
    assert steps == [["LoadImageFromFile", "TestTimeAug"]] * 2
    assert [len(d.pipeline[1]["transforms"]) for d in (plain, wrapped.dataset)] == [2, 3]
    assert cfg.model.type == "EBMTTAModel"
    assert cfg.model.tta_cfg.max_per_img == 100

    cfg = nested_test_sets()
    cfg.test_evaluator = [dict(type="CocoMetric"), dict(type="X", max_dets=300)]
    tool("test").use_test_time_augmentation(cfg)
    assert cfg.model.tta_cfg.max_per_img == 300  # as many as count

    cfg = nested_test_sets()
    cfg.tta_pipeline = [dict(type="Own")]
    tool("test").use_test_time_augmentation(cfg)
    plain, wrapped = cfg.test_dataloader.dataset.datasets
    assert plain.pipeline == wrapped.dataset.pipeline == [dict(type="Own")]

    cfg = nested_test_sets()
    cfg.test_dataloader.dataset.datasets[1].dataset.pipeline = []
    with pytest.raises(UsageError, match="ends with nothing, expected PackDetInputs"):
        tool("test").use_test_time_augmentation(cfg)


def test_augmentation_of_a_config_whose_types_are_classes():
    pipeline = [dict(type=LoadImageFromFile), dict(type=Pad, size=(8, 8)), dict(type=PackDetInputs)]
    cfg = Config(
        dict(
            model=dict(type=DetTTAModel),
            tta_model=dict(type=DetTTAModel, tta_cfg=dict()),
            test_dataloader=dict(dataset=dict(type=CocoDataset, pipeline=pipeline)),
        )
    )
    tool("test").use_test_time_augmentation(cfg)
    steps = cfg.test_dataloader.dataset.pipeline
    assert [step["type"] for step in steps] == [LoadImageFromFile, "TestTimeAug"]
    assert [len(each) for each in steps[1]["transforms"]] == [2, 1, 1]
    assert cfg.model.type == "EBMTTAModel"


def test_several_data_sets_with_an_evaluator_each(tiny_config, trained, tmp_path):
    """A ConcatDataset, its MultiDatasetsEvaluator, --tta, --eval and --out together."""
    config = tmp_path / "two.py"
    config.write_text(
        f"_base_ = [{str(tiny_config)!r}]\n"
        "one = _base_.test_dataloader.dataset\n"
        "metric = _base_.test_evaluator\n"
        "metric.update(metric='proposal')\n"
        "test_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset',\n"
        "                                    datasets=[one, one]))\n"
        "test_evaluator = dict(_delete_=True, type='MultiDatasetsEvaluator',\n"
        "                      metrics=[metric, metric], dataset_prefixes=['a', 'b'])\n"
    )
    out = tmp_path / "predictions.pkl"
    done = run(
        *(sys.executable, "tools/test.py", config, trained.checkpoint, "--tta"),
        *("--work-dir", tmp_path / "work", "--eval", "bbox", "--out", out),
    )
    assert done.returncode == 0, done.stdout[-4000:]
    for prefix in ("a", "b"):
        assert re.search(rf"{prefix}/coco/bbox_mAP: \d", done.stdout)
    assert [sample["img_id"] for sample in pickle.loads(out.read_bytes())] == [1, 2, 3, 4] * 2


def test_refuses_to_overwrite_and_names_what_is_missing(tmp_path, capsys):
    parse = tool("test").parse_args
    (tmp_path / "there.pkl").touch()
    checkpoint = str(tmp_path / "there.pkl")
    for arguments, message in (
        (["c.py", checkpoint, "--out", checkpoint], "exists: remove it"),
        (["c.py", checkpoint, "--out", "r.json"], "must end in .pkl"),
        (["c.py", "nowhere.pth"], "no checkpoint nowhere.pth"),
    ):
        with pytest.raises(SystemExit):
            parse(arguments)
        assert message in capsys.readouterr().err


def test_train_arguments_are_checked(capsys, monkeypatch):
    train = tool("train")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for arguments, message in (
        (["c.py", "--amp"], "--amp needs a GPU"),
        (["c.py", "--resume", "nowhere.pth"], "no file nowhere.pth"),
    ):
        with pytest.raises(SystemExit):
            train.parse_args(arguments)
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="base_batch_size=16"):
        train.apply_arguments(Config({}), train.parse_args(["c.py", "--auto-scale-lr"]))


@pytest.mark.parametrize("name", ["train", "test"])
def test_both_tools_compare_checkpoint_and_model(name, tmp_path, monkeypatch):
    hooks: list[object] = []
    fake = SimpleNamespace(register_hook=hooks.append, train=Mock(), test=Mock())
    monkeypatch.setattr("ebm_mmdet.engine.command_line.Runner.from_cfg", lambda cfg: fake)
    config, checkpoint = tmp_path / "c.py", tmp_path / "c.pth"
    config.write_text("model = dict(type='X')")
    checkpoint.touch()
    arguments = [str(config), *([str(checkpoint)] if name == "test" else [])]
    for options in ([], ["--incomplete"]):
        hooks.clear()
        assert tool(name).main([*arguments, "--work-dir", str(tmp_path), *options]) == 0
        (compared,) = (hook for hook in hooks if isinstance(hook, CompleteWeightsHook))
        assert compared.refuse == (not options)
    getattr(fake, name).assert_called()


def test_pictures_of_points_are_drawn_from_above():
    """mmdet3d's hook takes frames for images unless it is told, and needs a display for points."""
    pytest.importorskip("mmdet3d")
    test = tool("test")
    arguments = ["c.py", __file__, "--show-dir", "pictures"]
    drawn, shown = test.parse_args(arguments), test.parse_args([*arguments, "--show"])
    usual = dict(type="Det3DVisualizationHook")
    lidar = Config(dict(default_scope="mmdet3d", default_hooks=dict(visualization=usual)))
    (hook,) = test.draw_predictions(lidar, drawn)
    assert hook.folder == "pictures"
    assert "draw" not in lidar.default_hooks.visualization
    with pytest.raises(UsageError, match=r"--show: .*vis_task=lidar_det"):
        test.draw_predictions(lidar, shown)
    lidar.default_hooks.visualization.vis_task = "mono_det"
    assert test.draw_predictions(lidar, shown) == []
    assert lidar.default_hooks.visualization.show
    plain = Config(dict(default_scope="mmdet", default_hooks=dict()))
    with pytest.raises(UsageError, match=r"no hook that draws.*DetVisualizationHook"):
        test.draw_predictions(plain, drawn)


def test_both_spellings_of_local_rank_and_packaged_names(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    parse = tool("train").parse_args
    assert parse(["c.py", "--local_rank", "3"]).local_rank == 3
    args = parse(["mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", "--local-rank=0"])
    cfg = load_config(args)
    assert cfg.model.type == "RetinaNet"
    assert cfg.work_dir == "work_dirs/retinanet_r50_fpn_1x_coco"


def test_eval_goes_to_the_evaluator_that_computes_it():
    cfg = Config(dict(test_evaluator=[dict(type="mmdet.CocoMetric"), dict(type="VOCMetric")]))
    set_evaluation_metrics(cfg, ["bbox", "mAP"])
    assert cfg.test_evaluator[0].metric == ["bbox"]
    assert cfg.test_evaluator[1].metric == ["mAP"]
    cfg = Config(dict(test_evaluator=dict(type="EBMKittiMetric")))
    set_evaluation_metrics(cfg, ["bbox"])
    assert cfg.test_evaluator.metric == ["bbox"]
    cfg = Config(dict(test_evaluator=dict(type=HighIoUCocoMetric)))  # mmengine's new style
    set_evaluation_metrics(cfg, ["bbox"])
    assert cfg.test_evaluator.metric == ["bbox"]
    several = dict(
        type="MultiDatasetsEvaluator",
        metrics=[dict(type="CocoMetric"), dict(type="VOCMetric"), dict(type="CocoMetric")],
    )
    cfg = Config(dict(test_evaluator=[several, dict(type="ProbabilisticBoxMetric")]))
    set_evaluation_metrics(cfg, ["bbox"])
    metrics = cfg.test_evaluator[0].metrics
    assert [metric.get("metric") for metric in metrics] == [["bbox"], None, ["bbox"]]
    voc = Config(dict(test_evaluator=dict(type="VOCMetric")))
    with pytest.raises(ValueError, match="--eval mAP recall: VOCMetric computes one"):
        set_evaluation_metrics(voc, ["mAP", "recall"])
    with pytest.raises(ValueError, match=r"--eval recal: .*VOCMetric: mAP, recall"):
        set_evaluation_metrics(cfg, ["recal"])
    cfg = Config(dict(test_evaluator=dict(type="HighIoUCocoMetric")))
    with pytest.raises(ValueError, match=r"--eval mAP: .*HighIoUCocoMetric: bbox, segm"):
        set_evaluation_metrics(cfg, ["mAP"])
    with pytest.raises(ValueError, match="no test_evaluator"):
        set_evaluation_metrics(Config({}), ["bbox"])


def test_boxes_in_3d_are_written_from_the_cpu(tmp_path):
    class Boxes:
        device = "a GPU"

        def to(self, device):
            moved = Boxes()
            moved.device = device
            return moved

    boxes, path = Boxes(), tmp_path / "out.pkl"
    writer = tool("test").DumpWholeResults(out_file_path=str(path))
    writer.process({}, [{"pred_instances_3d": {"bboxes_3d": boxes}}])
    (result,) = writer.results
    assert result["pred_instances_3d"]["bboxes_3d"].device == "cpu"
    assert boxes.device == "a GPU"
