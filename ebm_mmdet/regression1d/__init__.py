"""The 1D regression study: energy-based models of y given x, both numbers."""
