"""The nuclei head of yolox_nano_nuclei_nceplus.py, trained by score matching (SM).

    python tools/train.py configs/nuclei/yolox_nano_nuclei_sm.py

All seven side by side: tools/analysis_tools/objective_study.py, docs/results.md, section Objectives.
"""

_base_ = ['./yolox_nano_nuclei_nceplus.py']

model = dict(
    energy_head=dict(
        # With ReLU f is piecewise linear in the features, and the trace knows the curvature of the pooling only.
        act_cfg=dict(type='SiLU'),
        objective=dict(_delete_=True, type='ScoreMatchingObjective', trace='exact')))
