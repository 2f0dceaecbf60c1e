"""The role ``finding``: words that state an outcome. Their rule is not shown; :mod:`lib.book.findings` checks it.

Where all measurements of the rule decide one claim, the words link to its card in the ledger.
"""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from lib.book import findings
from lib.book.claims import Claim
from lib.book.sphinx import page
from lib.book.sphinx.parts import link
from lib.book.sphinx.survey import by_id


def decided(rule: str, claims: list[Claim], chapter: str) -> str | None:
    """Return the id of the claim that all measurements of a finding's rule decide; None if they decide none.

    Of several it prefers one of this chapter, then the lowest number.

    rule: as :mod:`lib.book.findings` says.
    claims: all claims.
    chapter: the name of the chapter with the finding.
    """
    named = findings.keys(rule)
    known = [claim for claim in claims if named and named <= set().union(*map(claim.keys, claim.rules))]
    return min(known, key=lambda claim: (claim.chapter != chapter, by_id(claim))).id if known else None


class Finding(SphinxRole):
    """The role ``finding``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the words, or an error on the page if no rule follows after a bar; Sphinx calls it."""
        words, bar, rule = self.text.partition("|")
        if not (words.strip() and bar and rule.strip()):
            said = f"finding: its text must be words, a bar and a rule, not {self.text!r}"
            message = self.inliner.reporter.error(said, line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [message]
        id = self.claim(rule)
        shown = link(self.env.docname, id, words.strip()) if id else nodes.Text(words.strip())
        return [nodes.inline("", "", shown, classes=["finding"])], []

    def claim(self, rule: str) -> str | None:
        """Return the claim that the words link to; None without a ledger, or with a faulty one."""
        env = getattr(self.inliner.document.settings, "env", None)
        if env is None or page.LEDGER not in env.found_docs:
            return None
        try:
            claims, _ = page.load(Path(env.srcdir), page.watched(env))
        except (ValueError, OSError):
            return None
        return decided(rule, claims, Path(env.docname).name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the role; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.add_role("finding", Finding())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
