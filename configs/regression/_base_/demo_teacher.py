"""The energy that teaches a mixture, at the size of demo_methods.py; a recipe takes it out of the config."""

teacher = dict(head=dict(type='EBMRegressionHead', y_dims=(64, 64), hidden=128), num_noise=128)
