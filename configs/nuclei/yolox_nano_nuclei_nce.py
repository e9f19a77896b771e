"""The nuclei head of yolox_nano_nuclei_nceplus.py, trained by plain NCE.

    python tools/train.py configs/nuclei/yolox_nano_nuclei_nce.py

All seven side by side: tools/analysis_tools/objective_study.py, docs/results.md, section Objectives.
"""

_base_ = ['./yolox_nano_nuclei_nceplus.py']

model = dict(energy_head=dict(objective=dict(beta=0.0)))
