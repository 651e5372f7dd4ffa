"""Link names of the API that appear as code in pages and docstrings to their descriptions."""

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

_NAME = re.compile(r"flwr_decaf(\.\w+)+|[A-Z][a-z]*[A-Z]\w*(\.\w+)?")  # a dotted name, or a class


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Link each name to its object; names that are not part of the API stay code."""
    for code in list(doctree.findall(nodes.literal)):
        text, linked = code.astext(), isinstance(code.parent, (nodes.reference, pending_xref))
        if _NAME.fullmatch(text) and not linked:
            place = {"refdoc": app.env.docname, "refdomain": "py", "reftype": "obj"}
            link = pending_xref("", reftarget=text, refwarn=False, refspecific=True, **place)
            code.replace_self(link)
            link += code


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the function for every page that has been read."""
    app.connect("doctree-read", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
