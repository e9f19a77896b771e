"""Losses, registered in mmdet's ``MODELS``."""

from .kl_regression import KLLoss, kl_loss, limit_alpha

__all__ = ["KLLoss", "kl_loss", "limit_alpha"]
