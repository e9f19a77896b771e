"""As yolox_nano_nuclei_nceplus.py with a learned proposal (AISTATS 2022) instead of noise: boxes with uncertainty.

    python tools/train.py configs/nuclei/yolox_nano_nuclei_nceplus_mdn.py
    python tools/test.py configs/nuclei/yolox_nano_nuclei_nceplus_mdn.py CKPT

CKPT is work_dirs/yolox_nano_nuclei_nceplus_mdn/iter_1500.pth.
Each detection also gets box_std, box_cov, an effective sample size and a normalised log-density (docs/uncertainty.md),
which ProbabilisticBoxMetric evaluates. Watch energy_ess_ratio in the log: near 1 / 31, the proposal has not learned
where f is large.
Hardware: 2 CPU cores, five minutes. Expected (docs/uncertainty.md): honest spreads, ECE 0.04, and boxes that are worse
than the detector's, AP 64.0 against 68.1: 100 images are few for two densities.
"""

_base_ = ['./yolox_nano_nuclei_nceplus.py']

model = dict(
    energy_head=dict(
        type='ProposalEBMBBoxHead',
        # As for the paper's tasks of one target. Half the width of f's layers: 100 images.
        proposal=dict(num_components=4, hidden=128),
        # Stands in for the detector's errors while training: their standard deviations on the training images, which
        # refinement_study.yaml has too (tools/analysis_tools/fit_residual_prior.py).
        reference_noise=dict(type='GaussianMixtureNoise', sigmas=[[0.0448, 0.0448, 0.1069, 0.1036]]),
        # The positive of NCE+: a tenth (beta) of the base config's noise.
        target_noise=dict(type='GaussianMixtureNoise', sigmas=[0.00375, 0.0075, 0.015], dim=4),
        objective=dict(
            _delete_=True,
            type='ProposalObjective',
            form='nce',  # J_NCE for f
            num_noise=31,  # as in the base config, here from the proposal
            # The proposal learns from f (J_KL) and from the annotations, half and half, as the paper trains its
            # networks with a teacher: J_KL alone lets it drift while f is still flat.
            proposal_weight=0.5,
            nll_weight=0.5)),
    # As many samples per box as in the importance sampling of docs/uncertainty.md, doubled: q is wider than its prior.
    refiner=dict(_delete_=True, type='ProposalRefiner', num_samples=64))

val_evaluator = [
    _base_.val_evaluator,
    dict(type='ProbabilisticBoxMetric', ann_file=_base_.val_evaluator.ann_file),
]
test_evaluator = val_evaluator
