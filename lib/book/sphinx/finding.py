"""The role ``finding``: words that state an outcome. Their rule is not shown; :mod:`lib.book.findings` checks it."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole


class Finding(SphinxRole):
    """The role ``finding``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the words, or an error of the page where no rule stands behind a bar; Sphinx calls it."""
        words, bar, rule = self.text.partition("|")
        if not (words.strip() and bar and rule.strip()):
            said = f"finding: words, a bar and a rule are needed, not {self.text!r}"
            message = self.inliner.reporter.error(said, line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [message]
        return [nodes.inline("", words.strip(), classes=["finding"])], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the role; Sphinx calls it. Returns whether pages may be built at once."""
    app.add_role("finding", Finding())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
