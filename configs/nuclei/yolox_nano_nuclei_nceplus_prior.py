"""As yolox_nano_nuclei_nceplus.py; boxes go to the mode of the density with a prior around the detection.

    python tools/test.py configs/nuclei/yolox_nano_nuclei_nceplus_prior.py work_dirs/yolox_nano_nuclei_nceplus/iter_1500.pth

No step length to choose: the answer depends on the weight k = scale^2 of the density alone.
Expected: docs/results.md, section Nuclei, row "energy and prior".
"""

_base_ = ['./yolox_nano_nuclei_nceplus.py']

# Standard deviations of the detector's errors on the training images, and k = 0.125 (small bases, not tuned here):
#     python tools/analysis_tools/fit_residual_prior.py configs/nuclei/yolox_nano_nuclei_nceplus.py
model = dict(
    refiner=dict(step_size=None, prior=dict(std=[0.0448, 0.0448, 0.1069, 0.1036], scale=0.3536, temperature=1.0)))
