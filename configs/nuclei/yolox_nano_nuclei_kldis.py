"""The nuclei head of yolox_nano_nuclei_nceplus.py, trained by the divergence from a Gaussian around the annotation (KLD-IS).

    python tools/train.py configs/nuclei/yolox_nano_nuclei_kldis.py

All seven side by side: tools/analysis_tools/objective_study.py, docs/results.md, section Objectives.
"""

_base_ = ['./yolox_nano_nuclei_nceplus.py']

model = dict(
    energy_head=dict(
        objective=dict(
            _delete_=True,
            type='KLDISObjective',
            num_samples=32,
            label_sigma=0.0225,  # the papers'
            noise=dict(type='GaussianMixtureNoise', sigmas=[0.0375, 0.075, 0.15], dim=4))))
