"""Replace links to folders of the repository, which are not pages of the site, by their text."""

from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx


def unlink_folders(app: Sphinx, doctree: nodes.document) -> None:
    """Replace links to existing folders by their text; other broken links stay warnings."""
    for link in list(doctree.findall(pending_xref)):
        target = str(link.get("reftarget", ""))
        if "/" in target and (Path(app.srcdir) / target).is_dir():
            link.replace_self(link.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the function for every page that has been read."""
    app.connect("doctree-read", unlink_folders)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
