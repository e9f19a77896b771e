"""Every line of a recipe has an effect; recipes and their parts are bases of users' configs."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from mmdet.registry import LOOPS, MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import ebm_mmdet  # noqa: F401  lets mmengine find `ebm_mmdet::` bases
from ebm_mmdet.engine.config_options import OTHER_KEYS, UsageError, merge_options

ROOT = Path(__file__).parents[3]
FOLDERS = ("ebm", "kl_loss", "ebm3d")
RECIPES = sorted(
    path.relative_to(ROOT / "configs").as_posix()
    for folder in FOLDERS
    for path in (ROOT / "configs" / folder).glob("*.py")
)
NAMESPACES = {
    "_base_/ebm_recipe.py": "ebm",
    "_base_/kl_recipe.py": "kl",
    "_base_/cascade_recipe.py": "cascade",
    "ebm3d/_base_/ebm3d_recipe.py": "ebm3d",
    "ebm3d/_base_/sassd_paper.py": "sassd_paper",
}

READ = {*inspect.signature(Runner.__init__).parameters} - {"self", "cfg"} | OTHER_KEYS
"""Keys of a config that a run reads; `--cfg-options` refuses all others."""


def read(name: str) -> Config:
    """A config of ours, without importing what it names: the keys of 3D need no mmdet3d."""
    if name.startswith("ebm3d/"):
        pytest.importorskip("mmdet3d", reason="its bases are files of mmdet3d")
    return Config.fromfile(ROOT / "configs" / name, import_custom_modules=False)


def foreign_bases(path: Path) -> set[str]:
    """The bases of other packages that a config is made of."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_base_":
            bases = ast.literal_eval(node.value)
            for base in [bases] if isinstance(bases, str) else bases:
                found |= {base} if "::" in base else foreign_bases(path.parent / base)
    return found


def innermost(dataset):
    while "dataset" in dataset:
        dataset = dataset.dataset
    return dataset


def without_scopes(steps: list) -> list:
    """The steps of a pipeline; mmengine marks some of them with the package that they are from."""
    return [{key: value for key, value in step.items() if key != "_scope_"} for step in steps]


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_of_a_recipe_is_read(name):
    """Whether it is a variable of mmdet's own base files, whose names users know."""
    ours = read(name)
    inherited = set()
    for base in foreign_bases(ROOT / "configs" / name):
        inherited |= set(Config.fromstring(f"_base_ = {base!r}", ".py"))
    assert inherited, "a recipe starts from a config of mmdet or mmdet3d"
    assert set(ours) <= READ | inherited
    # A user's config that takes these variables of mmdet gets what the recipe really uses.
    for variable, loader in (("train_pipeline", "train"), ("test_pipeline", "test")):
        used = innermost(ours[f"{loader}_dataloader"].dataset).pipeline
        assert without_scopes(ours[variable]) == without_scopes(used)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_how_to_run_it_on_what_and_what_to_expect(name):
    text = ast.get_docstring(ast.parse((ROOT / "configs" / name).read_text()))
    commands = re.findall(r"^ +tools/dist_(train|test)\.sh +(\S+)", text, flags=re.M)
    own = {kind for kind, path in commands if path == f"configs/{name}"}
    assert own == {"train", "test"} or (own == {"test"} and "the training is the same" in text)
    assert "Hardware" in text
    assert re.search(r"\bdata\b", text, flags=re.I)
    assert re.search(r"^Expected: ", text, flags=re.M)
    for _, path in commands:
        assert (ROOT / path).is_file()


PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_that_a_page_recommends_have_an_effect(page):
    for option in re.findall(r"--cfg-options +([\w.]+)=", page.read_text()):
        assert option.partition(".")[0] in READ, option


@pytest.mark.parametrize("name", RECIPES)
def test_options_that_a_recipe_recommends_are_there(name):
    cfg = read(name)
    text = (ROOT / "configs" / name).read_text().split('"""')[1]
    for option in re.findall(r"(?:--cfg-options |\()((?:model\.)?[\w.]+)=", text):
        place, _, last = option.rpartition(".")
        assert option.partition(".")[0] in READ
        node = cfg
        for key in filter(None, place.split(".")):
            node = node[key]
        # An argument that the recipe leaves at its default may be given to a part that is there.
        assert last in node or "type" in node, option


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("energy_head.fc_channels", "model.energy_head.fc_channels"),
        ("refiner.num_steps", "model.refiner.num_steps"),
        ("detector.backbone.depth", "model.detector.backbone.depth"),
        ("ebm.head.fc_channels", "model.energy_head.fc_channels"),
        ("schedule.train_cfg.max_iters", "train_cfg.max_iters"),
    ],
)
def test_an_option_for_what_the_parts_are_called_is_refused(option, meant):
    cfg = read("ebm/faster_rcnn_r50_fpn_nceplus.py")
    with pytest.raises(UsageError, match=re.escape(option) + "=3: no effect.*" + re.escape(meant)):
        merge_options(cfg, {option: 3})
    merge_options(cfg, {meant: 3})


@pytest.mark.parametrize("name", NAMESPACES)
def test_a_part_has_one_variable(name):
    assert set(read(name)) == {NAMESPACES[name]}


def test_every_part_is_tested():
    bases = {
        path
        for folder in ("_base_", "ebm3d/_base_")
        for path in (ROOT / "configs" / folder).glob("*.py")
    }
    assert {path.relative_to(ROOT / "configs").as_posix() for path in bases} == set(NAMESPACES)


# The names that recipes had, and those that they have now; a user may have them too.
USER_VARIABLES = """
detector = 'mine'
energy_head = dict(mine=1)
refiner = dict(mine=2)
schedule = dict(mine=3)
ebm = dict(mine=4)
kl = [5]
"""


def test_a_recipe_as_the_base_of_a_users_config(tmp_path):
    user = tmp_path / "user.py"
    user.write_text(
        "_base_ = 'ebm_mmdet::ebm/faster_rcnn_r50_fpn_nceplus.py'\n"
        + USER_VARIABLES
        + "model = dict(\n"
        "    detector=dict(roi_head=dict(bbox_head=dict(num_classes=3))),\n"
        "    energy_head=dict(num_classes=3, fc_channels=[8], objective=dict(beta=0.0)),\n"
        "    refiner=dict(num_steps=_base_.model.refiner.num_steps // 2))\n"
        "train_cfg = dict(max_iters=10)\n"
    )
    cfg = Config.fromfile(user)
    plain = read("ebm/faster_rcnn_r50_fpn_nceplus.py")
    assert (cfg.detector, cfg.refiner, cfg.ebm, cfg.kl) == ("mine", {"mine": 2}, {"mine": 4}, [5])
    head, plain_head = cfg.model.energy_head, plain.model.energy_head
    assert (head.num_classes, head.fc_channels, head.objective.beta) == (3, [8], 0.0)
    assert head.objective.noise == plain_head.objective.noise
    assert cfg.model.refiner.num_steps == 5
    assert cfg.model.refiner.step_size == plain.model.refiner.step_size
    assert cfg.model.detector.roi_head.bbox_head.num_classes == 3
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (10, 5000)
    assert cfg.optim_wrapper.optimizer == plain.optim_wrapper.optimizer
    init_default_scope("mmdet")
    assert MODELS.build(head).objective.beta == 0.0


def test_a_recipe_beside_a_users_own_base_with_the_same_names(tmp_path):
    """Mmengine refuses two bases with one name, so a recipe must not define other names."""
    (tmp_path / "mine.py").write_text(USER_VARIABLES)
    user = tmp_path / "user.py"
    user.write_text(
        "_base_ = ['ebm_mmdet::ebm/retinanet_r50_fpn_nceplus.py', './mine.py']\n"
        "model = dict(refiner=dict(num_steps=_base_.schedule.mine))\n"
    )
    cfg = Config.fromfile(user)
    assert cfg.model.refiner.num_steps == 3
    assert cfg.model.energy_head.strides == [8, 16, 32]


MY_DETECTOR = """
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['json'], allow_failed_imports=False)
refiner = dict(mine=1)
model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))
"""


def test_the_block_of_the_readme(tmp_path):
    """The parts with a detector that has imports and variables of its own."""
    (tmp_path / "my_detector.py").write_text(MY_DETECTOR)
    readme = (ROOT / "configs" / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", readme, flags=re.S)
    (tmp_path / "user.py").write_text(block)
    cfg = Config.fromfile(tmp_path / "user.py")
    assert "ebm" not in cfg
    assert cfg.refiner == {"mine": 1}
    training = read("_base_/ebm_recipe.py").ebm.training
    assert cfg.train_cfg.max_iters == training.train_cfg.max_iters
    assert "max_epochs" not in cfg.train_cfg
    assert cfg.optim_wrapper.optimizer == training.optim_wrapper.optimizer
    assert cfg.default_hooks.checkpoint.backend_args.backend == "atomic"
    assert cfg.default_hooks.logger.type == "LoggerHook"  # mmdet's own are still there
    assert cfg.test_evaluator.type == "HighIoUCocoMetric"
    assert cfg.test_evaluator.ann_file == cfg.val_evaluator.ann_file  # the detector's
    init_default_scope("mmdet")
    cfg.model.energy_head.fc_channels = [8]
    model = MODELS.build(cfg.model)
    assert model.energy_head.num_classes == model.detector.roi_head.bbox_head.num_classes == 3
    assert type(model.refiner).__name__ == "GradientAscentRefiner"
    # Parts of a base from this package are looked up in its scope.
    assert cfg.train_cfg["_scope_"] == "ebm_mmdet"
    assert LOOPS.get("ebm_mmdet.IterBasedTrainLoop") is LOOPS.get("IterBasedTrainLoop")


def test_two_parts_at_once_and_settings_of_the_user_on_top(tmp_path):
    (tmp_path / "my_detector.py").write_text(MY_DETECTOR)
    (tmp_path / "user.py").write_text(
        "_base_ = ['./my_detector.py', 'ebm_mmdet::_base_/ebm_recipe.py',\n"
        "          'ebm_mmdet::_base_/kl_recipe.py']\n"
        "model = dict(roi_head=dict(bbox_head=_base_.kl.bbox_head))\n"
        "train_cfg = dict(max_iters=7)\n"
        "_base_.merge(_base_.pop('ebm').training)\n"
        "_base_.merge(_base_.pop('kl').training)\n"
    )
    cfg = Config.fromfile(tmp_path / "user.py")
    assert {"ebm", "kl"}.isdisjoint(cfg)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (7, 5000)
    assert cfg.visualizer.type.endswith("UncertaintyVisualizer")
    assert cfg.visualizer.vis_backends == [dict(type="LocalVisBackend")]
    assert cfg.model.roi_head.bbox_head.type == "KLBBoxHead"
    assert cfg.model.roi_head.bbox_head.num_classes == 3
    assert cfg.default_hooks.checkpoint.interval == 2500


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("ebm3d/")])
def test_a_recipe_has_the_same_content_under_its_packaged_name(name):
    packaged = get_config(f"ebm_mmdet::{name}")
    assert packaged.to_dict() == read(name).to_dict()
