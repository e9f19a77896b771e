"""Commands that make data for configs, and their functions; the packages must not import them."""
