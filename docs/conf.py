"""Sphinx: `make docs` writes the pages to build/docs."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]

project = "ebm-mmdet"
release = runpy.run_path(str(ROOT / "ebm_mmdet" / "version.py"))["__version__"]
extensions = ["myst_parser"]
myst_heading_anchors = 3  # links to sections, as the pages have them for GitHub
html_theme = "alabaster"  # comes with Sphinx
html_theme_options = {"description": "Energy-based box regression for MMDetection 3"}
