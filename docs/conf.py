"""The pages of this folder as a site: ``tox -e site`` builds it into ``build/site``.

GitHub and docutils show the same pages without Sphinx. So a page links to another page as to a
file, and has no role and no directive of Sphinx. Two exceptions: ``toctree`` in ``index.rst``,
and the pages of ``reference``, which consist of docstrings.
"""

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

import ssestream

project = "ssestream"
version = release = ssestream.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode"]
# Files that pages link to.
html_extra_path = ["alerts.yml", "grafana.json"]
# Parts of pages, which the pages include.
exclude_patterns = ["scaling/*.rst"]
# A block without a language is output, or text of the wire.
highlight_language = "text"

# Docstrings have names in single backquotes. See also `link_to_the_only_one`.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80

nitpicky = True
nitpick_ignore_regex = [
    # A name in single backquotes may be one of another package, or of a private room.
    ("py:obj", ".*"),
    # Types in signatures: of other packages, of private rooms, and variables of types.
    ("py:(class|data|exc)", ".*"),
]

html_theme = "furo"
html_title = f"ssestream {version}"
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b5cad",
        "color-brand-content": "#0b5cad",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7cb8f5",
        "color-brand-content": "#7cb8f5",
    },
}


def link_pages(app: Sphinx, tree: nodes.document) -> None:
    """A link to the file of a page becomes a link to the page. Sphinx warns if there is none."""
    for link in list(tree.findall(nodes.reference)):
        file = link.get("refuri", "")
        if "://" not in file and file.endswith(".rst"):
            page = addnodes.pending_xref(
                "",
                nodes.inline("", link.astext()),
                refdomain="std",
                reftype="doc",
                refdoc=app.env.docname,
                reftarget=file.removesuffix(".rst"),
                refexplicit=True,
                refwarn=True,
            )
            link.replace_self(page)


def link_to_the_only_one(
    app: Sphinx, env: BuildEnvironment, name: addnodes.pending_xref, shown: nodes.TextElement
) -> nodes.reference | None:
    """Link a name in single backquotes to what it names, if this can be one thing only."""
    if name["refdomain"] != "py" or name["reftype"] != "obj":
        return None
    domain = env.get_domain("py")
    assert isinstance(domain, PythonDomain)
    found = {
        (entry.docname, entry.node_id)
        for full, entry in domain.objects.items()
        if full.endswith(f".{name['reftarget']}") and not entry.aliased
    }
    if len(found) != 1:
        return None
    page, target = found.pop()
    return make_refnode(app.builder, name["refdoc"], page, target, shown, name["reftarget"])


def name_functions(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str]:
    """A default that is a function is shown by its name."""
    return re.sub(r"<function (\w+)>", r"\1", signature or "") or signature, returns


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-signature", name_functions)
    app.connect("doctree-read", link_pages)
    app.connect("missing-reference", link_to_the_only_one)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
