"""Code that made the numbers and figures of the documentation; never installed."""
