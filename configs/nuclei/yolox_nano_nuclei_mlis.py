"""The nuclei head of yolox_nano_nuclei_nceplus.py, trained by maximum likelihood with importance sampling (ML-IS).

    python tools/train.py configs/nuclei/yolox_nano_nuclei_mlis.py

All seven side by side: tools/analysis_tools/objective_study.py, docs/results.md, section Objectives.
"""

_base_ = ['./yolox_nano_nuclei_nceplus.py']

model = dict(
    energy_head=dict(
        objective=dict(
            _delete_=True,
            type='MLISObjective',
            num_noise=31,
            noise=dict(type='GaussianMixtureNoise', sigmas=[0.0375, 0.075, 0.15], dim=4))))
