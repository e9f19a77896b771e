"""A label of no class is refused before a box is refined, and read once, together with scores."""

from __future__ import annotations

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ebm_mmdet.energy.host_reads import read_together
from ebm_mmdet.models import EnergyGuidedNMS
from ebm_mmdet.models.detectors import label_check
from tests.ebm_mmdet.models.toys import NUM_CLASSES, batch, build, ebm_cfg

OPTIONS = {
    "plain": {},
    "min_score": dict(min_score=0.5),
    "candidates": dict(candidates=EnergyGuidedNMS()),
    "both": dict(min_score=0.5, candidates=EnergyGuidedNMS()),
}


@pytest.fixture(scope="module")
def model():
    return build(ebm_cfg("retinanet"))


@pytest.fixture
def refined(model, monkeypatch, request):
    """A function that refines boxes with these labels, as on a CPU or as on a GPU."""
    options, on_a_gpu = request.param
    for name in ("min_score", "candidates"):
        monkeypatch.setattr(model, name, options.get(name, {"min_score": 0.0}.get(name)))
    if on_a_gpu:
        monkeypatch.setattr(label_check, "pays_to_read", lambda device, rows: False)

    def refine(labels: list[int]) -> InstanceData:
        data = batch(model)
        found, sample = InstanceData(), DetDataSample(metainfo=data["data_samples"][0].metainfo)
        corner = 8.0 * torch.arange(len(labels)).unsqueeze(1).expand(-1, 2)
        found.bboxes = torch.cat([corner, corner + 20], 1)
        found.scores = torch.linspace(0.9, 0.1, len(labels))
        found.labels = torch.tensor(labels)
        sample.pred_instances = found
        with torch.no_grad():
            feats = model.read(model.extract_maps(data["inputs"][:1]), data["inputs"][:1])
            model.refine(feats, [sample], rescale=False)
        return sample.pred_instances

    return refine


WAYS = [(options, on_a_gpu) for options in OPTIONS.values() for on_a_gpu in (False, True)]
IDS = [f"{name}, {device}" for name in OPTIONS for device in ("CPU", "GPU")]


@pytest.mark.parametrize("refined", WAYS, ids=IDS, indirect=True)
@pytest.mark.parametrize("label", [-1, NUM_CLASSES])
def test_a_label_of_no_class_is_refused(refined, label):
    with pytest.raises(ValueError, match=rf"labels lie in .*expected \[0, {NUM_CLASSES - 1}\]"):
        refined([0, 1, label, 1])


@pytest.mark.parametrize("refined", WAYS, ids=IDS, indirect=True)
def test_labels_of_classes_pass(refined, model):
    found = refined([0, 1, NUM_CLASSES - 1, 1])
    moved = found.accepted_steps > 0
    assert moved.any()
    assert not moved[found.scores < model.min_score].any()


def test_values_are_read_together_as_they_are():
    values = [torch.tensor([3, -1]), torch.tensor([True, False, True]), torch.zeros(0).long()]
    for one, other in zip(read_together(*values), values, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
