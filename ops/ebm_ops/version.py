"""The version of ebm-ops, readable without importing torch. It is that of ebm-mmdet."""

__version__ = "0.1.0"
