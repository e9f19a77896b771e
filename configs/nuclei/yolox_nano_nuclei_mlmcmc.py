"""The nuclei head of yolox_nano_nuclei_nceplus.py, trained by maximum likelihood with Langevin chains (ML-MCMC-8).

    python tools/train.py configs/nuclei/yolox_nano_nuclei_mlmcmc.py

All seven side by side: tools/analysis_tools/objective_study.py, docs/results.md, section Objectives.
"""

_base_ = ['./yolox_nano_nuclei_nceplus.py']

model = dict(
    energy_head=dict(
        objective=dict(
            _delete_=True,
            type='MCMCObjective',
            step_size=0.02,  # 8 steps: 0.057 from the annotation, about the error of the detector
            num_steps=8,
            num_samples=16,  # a chain costs nine times a sample of NCE
            grad_clip=100.0,
            magnitude_weight=0.1)))  # keeps f from sharpening without end, see MCMCObjective
