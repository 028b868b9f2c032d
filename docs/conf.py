"""How Sphinx builds the documentation."""

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
# Links into other projects' documentation are resolved where a network is; without one they stay text.
intersphinx_mapping = {}
