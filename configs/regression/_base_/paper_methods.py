"""Heads as in Gustafsson et al., AISTATS 2022 (arXiv:2110.11948); a recipe takes one and removes the rest.

    model = dict(head=_base_.pop('methods').ebm)

Where they differ from the released code: labels are standardised, densities are logarithms, every label has noise of
its own, and the noise is 0.05 and 1.5 standard deviations of the labels instead of (in raw units) 1 and 40 for steering
and cells, 0.1 and 20 for ages, 1 and 10 for each angle of a pose. The network reads standardised labels times 20, which
are about as large as labels in their own units.
"""

energy = dict(type='EBMRegressionHead', y_dims=(16, 32, 64, 128), hidden=512, y_gain=20.0, f_gain=1.0)
samples = 1024

methods = dict(
    direct=dict(type='DirectRegressionHead'),
    gaussian=dict(type='MixtureRegressionHead', num_components=1),
    mdn=dict(type='MixtureRegressionHead', num_components=4),
    softmax=dict(type='SoftmaxRegressionHead', num_bins=200),
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
