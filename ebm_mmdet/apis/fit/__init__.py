"""Fit an energy head to a detector within a time limit, and say whether it pays."""
