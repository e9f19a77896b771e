"""Settings with a new name: for a config with the old one, the error names the new one."""

import inspect
from pathlib import Path

import pytest
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ebm_mmdet import energy

ROOT = Path(__file__).parents[3]
NOISE = dict(type="GaussianMixtureNoise", sigmas=[0.1, 0.2], dim=4)

COUNTED_THE_TARGET = r"num_samples=64 counted the target too; give num_noise=63"
RENAMED = r"step=0.02 is called step_size now; give step_size=0.02"
NOT_SCORED = r"num_noise=127 has no meaning here, .* give num_samples.*_delete_=True"


@pytest.mark.parametrize(
    ("base", "objective", "message"),
    [
        ("nceplus", dict(num_samples=64), COUNTED_THE_TARGET),
        ("mlis", dict(num_samples=64), COUNTED_THE_TARGET),
        ("nceplus_mdn", dict(num_samples=64), COUNTED_THE_TARGET),
        ("mlmcmc", dict(step=0.02), RENAMED),
        # As our own config did it before: another objective with the inherited noise.
        ("mlis", dict(type="KLDISObjective", num_samples=128), NOT_SCORED),
    ],
)
def test_a_config_that_inherits_from_ours_with_an_old_name(tmp_path, base, objective, message):
    path = tmp_path / "mine.py"
    inherited = ROOT / "configs" / "ebm" / f"faster_rcnn_r50_fpn_{base}.py"
    path.write_text(
        f"_base_ = [{str(inherited)!r}]\nmodel = dict(energy_head=dict(objective={objective!r}))\n"
    )
    cfg = Config.fromfile(path)
    init_default_scope("mmdet")
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg.model.energy_head)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(type="NCEObjective", noise=NOISE, num_samples=64), COUNTED_THE_TARGET),
        (dict(type="MLISObjective", noise=NOISE, num_samples=64), COUNTED_THE_TARGET),
        (dict(type="ProposalObjective", num_samples=64), COUNTED_THE_TARGET),
        (dict(type="ProposalObjective", num_samples=64, num_noise=63), COUNTED_THE_TARGET),
        (dict(type="ProposalObjective", num_samples="many"), "give num_noise=num_samples - 1"),
        (dict(type="MCMCObjective", step=0.02), RENAMED),
        (dict(type="KLDISObjective", noise=NOISE, num_noise=127), NOT_SCORED),
    ],
)
def test_the_registry_passes_the_explanation_on(settings, message):
    with pytest.raises(ValueError, match=message):
        TASK_UTILS.build(dict(settings))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("NCEObjective", {"num_noise"}),
        ("MLISObjective", {"num_noise"}),
        ("ProposalObjective", {"num_noise"}),
        ("KLDISObjective", {"num_samples"}),
        ("MCMCObjective", {"num_samples"}),
        ("DSMObjective", {"num_samples"}),
        ("ScoreMatchingObjective", set()),
    ],
)
def test_signatures_and_attributes_have_the_new_names_alone(name, counts):
    objective = getattr(energy, name)
    names = {"num_noise", "num_samples", "step"}
    assert names & {*inspect.signature(objective).parameters} == counts
    assert {n for n in names if hasattr(objective, n)} == counts, "an old name that reads None"
