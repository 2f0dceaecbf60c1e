"""Directives of the first page: why to care, what came out, and where the book stands, all computed.

``{headline}``   what became of one network's file      ``{findings}``   questions, each with the claim that answers it
``{state}``      the book in numbers
"""

import re
from html import escape

from docutils import nodes
from sphinx.application import Sphinx

from lib.book import chapters, ledger
from lib.book.ledger import Records
from lib.book.sphinx import ledger_markdown as markdown
from lib.book.sphinx.page import LEDGER, PROFILE, Page
from lib.book.sphinx.parts import chapter_link, label, link, slug, tiles
from lib.evidence import interval

SUBJECT = "quantization.lenet300"  # the network of the headline, in the keys of the records
SIZES = ("dense_bytes", "file_bytes")
ERRORS = ("trained_on_error_pct", "error_pct")
HEADLINE = """
LeNet-300-100, a classifier of handwritten digits, is a file of **{0}**.
Pruned, with shared values and coded, it is a file of **{1}**.
It misclassifies **{3}** of the test images; trained for as long without compression, it misclassifies {2}.
{{doc}}`Here is how <chapters/quantization>`.
"""
QUESTION = re.compile(r"(\S+): (.+\?)")
BAR = '<div class="size"><span>{name}</span><span class="bar" style="width: {share:.1f}%"></span></div>'


def headline(records: Records) -> tuple[list[str], float] | None:
    """Return sizes and errors before and after in words, and the share of the bytes that is left in percent.

    records: this build's measurements.
    Returns None where this build has not measured them.
    """
    keys = [f"{SUBJECT}.{metric}" for metric in SIZES + ERRORS]
    if not set(keys) <= set(records):
        return None
    before, after, *errors = (interval(records[key]["values"])[0] for key in keys)
    words = [f"{size / 1000:,.0f}\N{NO-BREAK SPACE}kB" for size in (before, after)]
    words += [f"{error:.1f}\N{NO-BREAK SPACE}%" for error in errors]
    return words, 100 * after / before


class Headline(Page):
    """Why to care: the bytes of one network before and after, as two sentences and two bars."""

    def render(self) -> list[nodes.Node]:
        found = headline(self.load()[1][PROFILE])
        if found is None:
            return [nodes.paragraph("", "The first result was not measured in this build.")]
        words, share = found
        bars = [BAR.format(name=escape(name), share=width) for name, width in zip(words, (100, share), strict=False)]
        said = escape(f"Two bars: the file has {words[0]} before and {words[1]} after, {share:.1f} % of it")
        picture = nodes.raw(
            "", f'<div class="sizes" role="img" aria-label="{said}">{"".join(bars)}</div>', format="html"
        )
        return [self.parsed(HEADLINE.format(*words), nodes.container(classes=["headline"])), picture]


class Findings(Page):
    """Cards, one for each line ``claim: question?``: what the survey says, the verdict, and the chapter with both."""

    has_content = True

    def render(self) -> list[nodes.Node]:
        claims, results = self.load()
        known = {claim.id: claim for claim in claims}
        row = nodes.bullet_list(classes=["findings"])
        for line in filter(None, map(str.strip, self.content)):
            asked = QUESTION.fullmatch(line)
            if asked is None or asked[1] not in known:
                raise ValueError(f"a line must be the id of a claim, a colon and a question, not {line!r}")
            claim = known[asked[1]]
            verdict, text = markdown.badge(claim, PROFILE, results)
            head = nodes.paragraph("", "", nodes.strong(text=asked[2]))
            badge = label(verdict, link(self.env.docname, claim.id, text))
            foot = nodes.paragraph("", "", badge, nodes.Text(" "), chapter_link(self.env.docname, claim.chapter))
            card = nodes.list_item("", head, classes=["claim", f"claim-{slug(verdict)}"])
            row += self.parsed(f"The survey: {claim.says}", card)
            card += foot
        return [row]


class State(Page):
    """The book in computed numbers: techniques, chapters, and claims by verdict."""

    def render(self) -> list[nodes.Node]:
        claims, results = self.load()
        first = [
            (str(len(ledger.load_techniques(self.root))), "techniques", self.address("techniques")),
            (str(len(chapters.names(self.root))), "chapters", None),
            (str(len(claims)), "claims in the ledger", self.address(LEDGER)),
        ]
        text = f"The numbers are those of the **{PROFILE}** profile, except where another one is named."
        return [
            *tiles(first),
            *tiles(self.verdict_tiles(claims, results)),
            self.parsed(text, nodes.container(classes=["facts"])),
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives; Sphinx calls it. Returns whether pages may be built at once."""
    for name, directive in (("headline", Headline), ("findings", Findings), ("state", State)):
        app.add_directive(name, directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
