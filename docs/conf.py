"""Sphinx: `make docs` writes the site to build/docs."""

import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The working copy, installed or not. ops/ is a distribution of its own.
sys.path[:0] = [str(ROOT), str(ROOT / "ops")]

project = "ebm-mmdet"
author = "the authors of ebm-mmdet"
release = runpy.run_path(str(ROOT / "ebm_mmdet" / "version.py"))["__version__"]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = "ebm-mmdet"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # links to sections, as the pages have them for GitHub
nb_execution_mode = "off"  # outputs are stored in the notebook; tests/docs runs it
nb_merge_streams = True

# The reference of ebm_ops and ebm_mmdet.energy needs torch only. These need more, and where that is
# not installed the page says so instead.
NEEDS = dict.fromkeys(
    ("models", "apis", "engine", "evaluation", "datasets", "regression", "visualization"), "mmdet"
)
NEEDS["ebm_mmdet3d"] = "mmdet3d"

autodoc_member_order = "groupwise"
autodoc_inherit_docstrings = False  # a method without a docstring of its own is no news
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
napoleon_use_rtype = False
napoleon_custom_sections = ["Source", ("Yields", "returns_style")]
default_role = "code"  # `x` in a docstring is code


def show_formulas(app, what, name, obj, options, lines: list[str]) -> None:
    """Turn the indented formulas and tables of a docstring into literal blocks.

    They are written for the eye, without the marks of reStructuredText: a paragraph that is
    indented deeper than the text before it. List items and the arguments of a section, which are
    indented too, have been taken care of by then or begin with a mark of their own.
    """
    shown: list[str] = []
    for number, line in enumerate(lines):
        after_blank = number > 0 and not lines[number - 1].strip()
        indent = len(line) - len(line.lstrip())
        text = next((old for old in reversed(shown) if old.strip()), "")
        outer = len(text) - len(text.lstrip())
        is_block = line.strip() and after_blank and indent >= outer + 4 and not in_block(shown)
        if is_block and not re.match(r"\s*(:|\.\.|[-*] |=+ )", text) and not text.endswith("::"):
            shown += [" " * outer + ".. code-block:: text", ""]
        parts = line.split("``")  # every second part is code
        is_code = line.startswith("    ") and in_block(shown)
        if len(parts) % 2 and not line.lstrip().startswith(("|", "+")) and not is_code:
            # |x| would be a substitution.
            line = "``".join(
                part if i % 2 else part.replace("|", r"\|") for i, part in enumerate(parts)
            )
        shown.append(line)
    lines[:] = shown


def in_block(lines: list[str]) -> bool:
    """Whether the last paragraphs belong to a literal block already."""
    for line in reversed(lines):
        if line.strip() and not line.startswith("    "):
            return line.rstrip().endswith(("::", ".. code-block:: text"))
    return False


def leave_out(app, docname: str, source: list[str]) -> None:
    """Replace a page of the reference that cannot be made here."""
    package = NEEDS.get(docname.removeprefix("api/")) if docname.startswith("api/") else None
    if package is not None and find_spec(package) is None:
        heading = "\n".join(source[0].splitlines()[:2])
        source[0] = f"{heading}\n\nNot included: {package} was not installed.\n"


def let_classes_be_read() -> None:
    """Make methods under mmcv's `cache_randomness` readable from their class.

    Napoleon looks members up in classes, and mmcv's descriptor works for instances only.
    """
    if find_spec("mmcv") is None:
        return
    from mmcv.transforms.utils import cache_randomness

    bind = cache_randomness.__get__
    cache_randomness.__get__ = lambda self, instance, owner=None: (
        self.func if instance is None else bind(self, instance, owner)
    )


def setup(app) -> None:
    let_classes_be_read()
    app.connect("source-read", leave_out)
    app.connect("autodoc-process-docstring", show_formulas, priority=900)
