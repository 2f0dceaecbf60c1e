"""A role that shows a measurement without its spread, for openings and for results of the published profile.

``{mean}`pruning.lenet300.removed_pct` ``            the mean of this build, with the digits that were recorded
``{mean}`pruning.lenet300.removed_pct 0` ``          with this many digits
``{mean}`pruning.lenet300.removed_pct standard` ``   the committed record of another profile; the text names it
"""

import re
from collections.abc import Mapping
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from lib.book.claims import PROFILES
from lib.book.ledger import Records
from lib.book.sphinx import page
from lib.book.sphinx.page import PROFILE
from lib.evidence import formatted, interval

FORM = re.compile(rf"(?P<key>[\w.]+)(?: (?P<digits>\d+))?(?: (?P<profile>{'|'.join(PROFILES)}))?")


def mean(text: str, results: Mapping[str, Records]) -> str:
    """Return the mean of a measurement with its unit.

    text: the role's text: a key, optionally followed by digits and a profile.
    results: {profile: measurements}.
    Raises ValueError for a text of another form and a key that was not measured.
    """
    said = FORM.fullmatch(text)
    if said is None:
        raise ValueError(f"a mean must be `key`, optionally with digits and a profile after it, not `{text}`")
    profile = said["profile"] or PROFILE
    record = results.get(profile, {}).get(said["key"])
    if record is None:
        raise ValueError(f"the key {said['key']!r} was not measured in the {profile} profile")
    digits = record["digits"] if said["digits"] is None else int(said["digits"])
    return formatted([interval(record["values"])[0]], unit=record["unit"], digits=digits)


class Mean(SphinxRole):
    """The role ``mean``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the text, or an error on the page for a key that was not measured; Sphinx calls it."""
        try:
            _, results = page.load(Path(self.env.srcdir), page.watched(self.env))
            return [nodes.inline("", mean(self.text, results), classes=["pasted-text"])], []
        except (ValueError, OSError) as error:
            message = self.inliner.reporter.error(f"mean: {error}", line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [message]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the role; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.add_role("mean", Mean())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
