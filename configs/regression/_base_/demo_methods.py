"""Heads for the small network of demo.py; a recipe takes one and removes the rest.

    model = dict(head=_base_.pop('methods').ebm)

The network is a quarter as wide as the papers' (paper_methods.py), and M = 128 instead of 1024.
"""

energy = dict(type='EBMRegressionHead', y_dims=(64, 64), hidden=128)
samples = 128

methods = dict(
    direct=dict(type='DirectRegressionHead'),
    gaussian=dict(type='MixtureRegressionHead', num_components=1),
    mdn=dict(type='MixtureRegressionHead', num_components=4),
    softmax=dict(type='SoftmaxRegressionHead', num_bins=200),
    # Standard deviations in units of the labels' standard deviation.
    ebm=dict(
        energy,
        objective=dict(
            type='NCEObjective', num_noise=samples,
            noise=dict(type='GaussianMixtureNoise', sigmas=[0.05, 1.5], dim=1))),
    ebm_mdn=dict(
        energy,
        proposal=dict(num_components=4),
        objective=dict(type='ProposalObjective', num_noise=samples)),
    # Not in the papers: f is the logarithm of a mixture, which learns by maximum likelihood, plus a correction.
    ebm_residual=dict(
        energy,
        residual=True,
        proposal=dict(num_components=4),
        objective=dict(type='ProposalObjective', num_noise=samples, proposal_weight=0.0, nll_weight=1.0)))
