"""The energy head of yolox_nano_bbbc039_nceplus.py on maps of the image at twice its size: the most precise boxes.

    python tools/train.py configs/bbbc039/yolox_nano_bbbc039.py             # first, the detector
    python tools/train.py configs/bbbc039/yolox_nano_bbbc039_nceplus_enlarged.py
    python tools/test.py configs/bbbc039/yolox_nano_bbbc039_nceplus_enlarged.py \
        work_dirs/yolox_nano_bbbc039_nceplus_enlarged/iter_1800.pth

The detections are those of the image as it is. Maps of the enlarged image cost four times the detector's features once more.
Hardware: 2 CPU cores, 25 minutes of one. Expected: +1.4 AP, +4.5 AP90, and by four views +1.6 AP, +4.8 AP90; by 400 iterations on
cached features +1.2 AP, +4.1 AP90, +5.9 AP95, over three seeds (docs/results.md, section Maps of an enlarged image):

    --cfg-options model.flips="[horizontal,vertical,diagonal]"
"""

_base_ = './yolox_nano_bbbc039_nceplus.py'

model = dict(
    enlarge=2,
    feature_source=['neck', 'backbone.stage1'],
    energy_head=dict(
        # backbone.stage1 and the two finest maps of the neck: the strides that the recipe without enlargement reads, each from deeper in
        # the network. backbone.stem at stride 1 is left out.
        feature_levels=[3, 0, 1],
        in_channels=[32, 64, 64],
        strides=[2, 4, 8],  # in pixels of the image as it is
        # In cells, which enlarging does not change: as read at strides 4, 8 and 16 there.
        roi_shift=[-0.25, -0.125, -0.0625]))
