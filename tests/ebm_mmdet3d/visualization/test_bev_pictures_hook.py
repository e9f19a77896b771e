"""Pictures of test frames from above."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import pytest
import torch

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from torch import nn

from ebm_mmdet3d.visualization.bev_pictures_hook import BEVPicturesHook

BOXES = torch.tensor([[20.0, 0, -1.7, 4, 1.7, 1.5, 0.3], [30.0, 5, -1.7, 4, 1.7, 1.5, -3.1]])


def frame(count: int, path: str | None) -> Det3DDataSample:
    found = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(BOXES[:count]),
        scores_3d=torch.tensor([0.9, 0.1])[:count],
        labels_3d=torch.zeros(count, dtype=torch.long),
    )
    meta = dict(sample_idx=7) if path is None else dict(lidar_path=path, sample_idx=0)
    sample = Det3DDataSample(pred_instances_3d=found, metainfo=meta)
    sample.eval_ann_info = dict(gt_bboxes_3d=LiDARInstance3DBoxes(BOXES[1:]))
    return sample


def pixels(path, colour) -> int:
    """Number of pixels near a colour, (B, G, R)."""
    picture = cv2.imread(str(path)).astype(int)
    return int((abs(picture - torch.tensor(colour).numpy()).max(-1) < 40).sum())


@pytest.mark.parametrize("limits", [None, [0, -20, -3, 40, 20, 1]])
def test_frames_have_a_picture_each_with_boxes_and_annotations(limits, tmp_path):
    model = nn.Module()
    model.voxel_layer = SimpleNamespace(point_cloud_range=limits) if limits else None
    runner = SimpleNamespace(model=model, work_dir=str(tmp_path), timestamp="now")
    frames = [frame(2, "/a b/000012.bin"), frame(0, None)]
    points = [torch.rand(50, 4) * 30, torch.zeros(0, 4)]
    hook = BEVPicturesHook("pictures")
    hook.after_test_iter(runner, 0, dict(inputs=dict(points=points)), frames)
    hook.after_test_iter(runner, 1, dict(inputs=dict(points=points[:1])), frames[:1])
    folder = tmp_path / "now" / "pictures"
    assert sorted(path.name for path in folder.iterdir()) == ["000007.png", "000012.png"]
    blue, white = (255, 184, 77), (255, 255, 255)
    drawn = pixels(folder / "000012.png", blue)
    assert drawn > 50 > pixels(folder / "000007.png", blue)
    one = frame(1, "/a b/000013.bin")  # the second box is below the threshold
    hook.after_test_iter(runner, 2, dict(inputs=dict(points=points[:1])), [one])
    assert pixels(folder / "000013.png", blue) == drawn
    del one.eval_ann_info
    one.set_metainfo(dict(lidar_path="000014.bin"))
    hook.after_test_iter(runner, 3, dict(inputs=dict(points=points[:1])), [one])
    one.set_metainfo(dict(lidar_path=None, sample_idx="a1/b2"))
    hook.after_test_iter(runner, 4, dict(inputs=dict(points=points[:1])), [one])
    assert (folder / "b2.png").exists()
    if limits:
        assert pixels(folder / "000014.png", white) < pixels(folder / "000013.png", white)


def test_frames_of_a_camera_alone_are_refused():
    with pytest.raises(ValueError, match=r"no points; .*vis_task='mono_det'"):
        BEVPicturesHook("pictures").after_test_iter(None, 0, dict(inputs=dict(imgs=[])), [])
