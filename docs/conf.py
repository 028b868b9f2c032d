"""How Sphinx builds the documentation."""

import os

from flowercnn import __version__

project = "flowercnn"
author = "The flowercnn developers"
copyright = "The flowercnn developers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"flowercnn {version}"
html_static_path = ["_static"]
myst_heading_anchors = 3
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
default_role = "py:obj"
# Links into other projects need a network while building: they are made where the pages are
# published.
published = bool(os.environ.get("READTHEDOCS"))
intersphinx_mapping = (
    {"python": ("https://docs.python.org/3", None), "numpy": ("https://numpy.org/doc/stable", None)}
    if published
    else {}
)
