"""Sphinx configuration of the site."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "extensions")]

project = "flwr-decaf"
author = copyright = "the flwr-decaf developers"
release = version = version_of("flwr-decaf")

extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "myst_nb",
    "folders",
    "formulas",
    "names",
]

exclude_patterns = ["runs"]  # where the notebook writes to

html_theme = "furo"
html_title = f"flwr-decaf {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False

html_math_renderer = "formulas"
highlight_language = "none"  # literal blocks without a language are formulas in docstrings

smartquotes = False  # users type the values in tables as they are shown
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebook includes its outputs, and a test executes it

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # numpydoc shows the types that docstrings describe
numpydoc_show_class_members = False
