"""The nuclei head of yolox_nano_nuclei_nceplus.py, trained by denoising score matching (DSM).

    python tools/train.py configs/nuclei/yolox_nano_nuclei_dsm.py

All seven side by side: tools/analysis_tools/objective_study.py, docs/results.md, section Objectives.
"""

_base_ = ['./yolox_nano_nuclei_nceplus.py']

model = dict(
    energy_head=dict(
        objective=dict(
            _delete_=True,
            type='DSMObjective',
            sigma=0.0375,  # half of the papers', like the noise of the other objectives here
            num_samples=16,  # a second derivative costs about four times a sample of NCE
            scale_by_sigma=True)))
