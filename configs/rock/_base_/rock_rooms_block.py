"""The block for ssd_rooms_model.py; its map has stride 8, so the targets need `AuxiliaryTargets(stride=8)`.

The task features keep the proportions of the paper (a quarter and three quarters of the encoding, of 512). The encoding is
wider than the quarter of the map that it is there: 24 channels, which each task halves, would be too few.
"""

block = dict(
    type='ROCKBlock',
    in_channels=96,
    mid_channels=64,
    tasks=dict(
        scene=dict(type='SceneTask', num_scenes=8),
        depth=dict(type='DepthTask', feature_channels=16),
        normals=dict(type='NormalsTask', feature_channels=48)))
