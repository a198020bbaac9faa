"""How Sphinx builds the site: ``sphinx-build -W --keep-going docs docs/_build``."""

import inspect
import os
import pydoc
import re

# Importing the package for its docstrings must not take a GPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import sgdat_jax

project = "sgdat_jax"
author = copyright = "The sgdat_jax authors"
release = version = sgdat_jax.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "py:obj"  # single backticks in docstrings name objects

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures stay short; docstrings say what is taken
autosummary_generate = True
autosummary_imported_members = False
napoleon_use_rtype = False

copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"

html_theme = "furo"
html_title = "sgdat_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": "https://github.com/sgdat-jax/sgdat-jax/",
    "source_branch": "main",
    "source_directory": "docs/",
}


# Napoleon takes what stands before a colon in the first line of an attribute's
# docstring for its type, so such docstrings go round it.
_plain: dict[str, list[str]] = {}


def _keep(app, what, name, obj, options, lines):
    if what == "attribute":
        _plain[name] = [_comment(name)] if _is_field(lines) else list(lines)


def _restore(app, what, name, obj, options, lines):
    lines[:] = _plain.pop(name, lines)


def _is_field(lines):
    return bool(lines) and lines[0].startswith("Alias for field number")


def _comment(name):
    """Returns the comment behind a field of a named tuple."""
    path, _, field = name.rpartition(".")
    source = inspect.getsource(pydoc.locate(path))
    found = re.search(rf"^ +{field}: .*?  # (.+)$", source, re.MULTILINE)
    return found[1] if found else ""


def setup(app):
    """Adds what comes before and after Napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", _keep, priority=400)
    app.connect("autodoc-process-docstring", _restore, priority=600)
