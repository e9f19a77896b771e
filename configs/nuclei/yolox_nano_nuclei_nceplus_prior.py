"""As yolox_nano_nuclei_nceplus.py; boxes go to the mode of the density with a prior around the detection.

    python tools/test.py configs/nuclei/yolox_nano_nuclei_nceplus_prior.py work_dirs/yolox_nano_nuclei_nceplus/iter_1500.pth

No step length to choose: the answer depends on the weight k = scale^2 of the density alone.
Expected: docs/results.md, section Nuclei, row "energy and prior with bias".
"""

_base_ = ['./yolox_nano_nuclei_nceplus.py']

# Spread and median of the detector's errors on the training images, and k = 0.125 (small bases, not tuned here):
#     python tools/analysis_tools/fit_residual_prior.py configs/nuclei/yolox_nano_nuclei_nceplus.py
model = dict(
    refiner=dict(
        step_size=None,
        prior=dict(
            std=[0.0435, 0.0462, 0.1052, 0.1057], bias=[-0.0008, 0.0023, -0.0066, -0.0011], scale=0.3536,
            temperature=1.0)))
