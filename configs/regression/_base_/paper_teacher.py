"""The energy that teaches a mixture, at the size of paper_methods.py; a recipe takes it out of the config."""

teacher = dict(
    head=dict(type='EBMRegressionHead', y_dims=(16, 32, 64, 128), hidden=512, y_gain=20.0, f_gain=1.0), num_noise=1024)
