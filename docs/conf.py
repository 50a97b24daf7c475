"""Sphinx: Markdown pages (MyST) and the public docstrings (numpydoc)."""

from importlib.metadata import version as installed_version

project = "tensoradapt"
author = "the tensoradapt authors"
copyright = "2026, the tensoradapt authors"
release = installed_version("tensoradapt")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "jupyter_execute"]

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the code blocks of the docs run in the tests

autodoc_typehints = "none"  # the docstrings name types and shapes
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "tensoradapt"
