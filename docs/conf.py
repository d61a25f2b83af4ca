"""Sphinx's settings. ``python docs/build.py`` builds the site."""

import re
import urllib.request

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

from captum_extremal._version import own_version

project, author, release = "captum_extremal", "the authors of captum_extremal", own_version()
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
html_static_path = ["_static"]  # of the gathered sources: the explorer
html_theme = "furo"
html_title = "Captum Extremal"
html_copy_source = html_show_copyright = False
html_theme_options = {"source_repository": "https://github.com/captum-extremal/captum_extremal"}
exclude_patterns = ["build.py", "conf.py"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tutorials/execute.py has executed them
nb_merge_streams = True
copybutton_exclude = ".linenos, .gp, .go"  # no prompts and outputs

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say types and shapes
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False


def _answers(address):
    """Whether a site can be reached, so that a build without a network has no links to it instead of a warning."""
    try:
        with urllib.request.urlopen(f"{address}objects.inv", timeout=5):
            return True
    except OSError:
        return False


_ELSEWHERE = {
    "torch": "https://docs.pytorch.org/docs/stable/",
    "captum": "https://captum.ai/api/",
    "numpy": "https://numpy.org/doc/stable/",
    "matplotlib": "https://matplotlib.org/stable/",
}
intersphinx_mapping = {name: (address, None) for name, address in _ELSEWHERE.items() if _answers(address)}


def _literal_stars(app, what, name, thing, options, lines):
    """The stars of a* and of shapes (N, C, *S) are no marks of emphasis."""
    lines[:] = [re.sub(r"(?<![\w*`])(a)\*(?![\w*])|(?<=[(\s])\*(?=S\b)", r"\1\\*", line) for line in lines]


def _mathml(display):
    def visit(self, node):
        self.body.append(convert(node.astext(), display=display))
        raise SkipNode

    return visit


def setup(app):
    """Formulas as MathML, which browsers draw without a script from elsewhere."""
    app.add_html_math_renderer("mathml", (_mathml("inline"), None), (_mathml("block"), None))
    app.connect("autodoc-process-docstring", _literal_stars)


html_math_renderer = "mathml"
