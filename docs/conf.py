"""Configuration of the documentation site.

python -m sphinx -W --keep-going docs FOLDER
"""

import importlib.util
import os
import re

import matplotlib
from docutils import nodes
from sphinx_gallery.sorting import FileNameSortKey

import sktransfer

matplotlib.use("agg")
# Progress of downloads and of training is of no use on a page.
os.environ.setdefault("TQDM_DISABLE", "1")

project = "sktransfer"
author = copyright = "The sktransfer developers"
version = release = sktransfer.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["examples", "structure.py"]
templates_path = ["_templates"]
default_role = "literal"  # as in scikit-learn: `code`
nitpicky = True
suppress_warnings = ["config.cache"]  # the configuration of the gallery has a function

# -- Pages ---------------------------------------------------------------------------------------

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# -- Reference -----------------------------------------------------------------------------------

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc states them
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# -- Gallery -------------------------------------------------------------------------------------

# These pages are shown without being run where their library is missing.
NEEDED = {"25_conformal": "mapie", "26_active": "skactiveml"}
MISSING = [page for page, module in NEEDED.items() if importlib.util.find_spec(module) is None]

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": "/plot_" + "".join(f"(?!{page})" for page in MISSING),
    "within_subsection_order": FileNameSortKey,
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "doc_module": ("sktransfer",),
    "backreferences_dir": "generated/backreferences",
    "inspect_global_variables": True,
    "min_reported_time": 0,
    "remove_config_comments": True,
    "reset_argv": lambda conf, script: [],
    "run_stale_examples": False,
}

# -- Appearance ----------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = "sktransfer"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "api": []}
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


# -- References to other projects ----------------------------------------------------------------

# The inventories of these projects are on the network, and a build uses none. Their addresses
# follow from the names.
SKLEARN = "https://scikit-learn.org/stable"
ADDRESSES = (
    (r"sklearn\.((?:\w+\.)*)(\w+)$", SKLEARN + "/modules/generated/{name}.html"),
    (r"numpy\.(\w+)$", "https://numpy.org/doc/stable/reference/generated/{name}.html"),
    (r"torch\.nn\.(\w+)$", "https://docs.pytorch.org/docs/stable/generated/{name}.html"),
    (r"cleanlab\.(\w+\.)*(\w+)$", "https://docs.cleanlab.ai/stable/"),
    (r"skorch\.(\w+)$", "https://skorch.readthedocs.io/en/stable/"),
)


# Sections of scikit-learn's guide, to which its docstrings refer.
SECTIONS = {
    "accuracy_score": "modules/model_evaluation.html#accuracy-score",
    "df_output_transform": "auto_examples/miscellaneous/plot_set_output.html",
    "metadata_routing": "metadata_routing.html",
    "r2_score": "modules/model_evaluation.html#r2-score-the-coefficient-of-determination",
    "sphx_glr_auto_examples_miscellaneous_plot_set_output.py": (
        "auto_examples/miscellaneous/plot_set_output.html"
    ),
}


def link_other_project(app, env, node, content):
    """Resolve a reference such as sklearn.pipeline.Pipeline to the page of its project."""
    name = node.get("reftarget", "")
    if name in SECTIONS:
        address = f"{SKLEARN}/{SECTIONS[name]}"
        return nodes.reference("", "", content, internal=False, refuri=address)
    for pattern, address in ADDRESSES:
        if re.match(pattern, name) and _exists(name):
            return nodes.reference(
                "", "", content, internal=False, refuri=address.format(name=name)
            )
    return None


def _exists(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ImportError:
        return False


def setup(app):
    app.connect("missing-reference", link_other_project)
