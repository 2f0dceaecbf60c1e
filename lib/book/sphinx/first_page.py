"""Directives of the first page: why it matters, what came out, and what the book holds, all computed.

``{headline}``   how small one network's file got        ``{findings}``   cards, each with a small figure and a link
``{state}``      the book in numbers

A card begins with a claim or a chapter and what came out. After that it may have bars, and before them what they show::

    ```{findings}
    C2.3-38: Nine of ten weights can go
    weights removed
    the survey = 30 % {cite:p}`berthelier2020survey`
    here = pruning.lenet300.removed_pct
    ```
"""

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from html import escape

from docutils import nodes
from sphinx.application import Sphinx

from lib.book import chapters, ledger
from lib.book.ledger import Records
from lib.book.sphinx import ledger_markdown as markdown
from lib.book.sphinx.bars import figure
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
ERRATA = "errata"  # the page of all errata
HEAD = re.compile(r"(\S+): (\S.*)")
BAR = '<div class="size"><span>{name}</span><span class="bar" style="width: {share:.1f}%"></span></div>'


def headline(records: Records) -> tuple[list[str], float] | None:
    """Return the sizes and errors before and after, as text, and the share of the bytes that is left in percent.

    records: this build's measurements.
    Returns None if this build has not measured them.
    """
    keys = [f"{SUBJECT}.{metric}" for metric in SIZES + ERRORS]
    if not set(keys) <= set(records):
        return None
    before, after, *errors = (interval(records[key]["values"])[0] for key in keys)
    words = [f"{size / 1000:,.0f}\N{NO-BREAK SPACE}kB" for size in (before, after)]
    words += [f"{error:.1f}\N{NO-BREAK SPACE}%" for error in errors]
    return words, 100 * after / before


class Headline(Page):
    """Why it matters: the bytes of one network before and after, in words and as two bars."""

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


@dataclass
class Card:
    """The content of a card: a claim or a chapter, what came out, what the bars show, and the bars."""

    about: str
    title: str
    quantity: str = ""
    bars: list[str] = field(default_factory=list)


def cards(lines: Iterable[str], known: Container[str]) -> list[Card]:
    """Return the cards that lines describe.

    lines: of the directive ``findings``; blank ones do not count.
    known: the ids of all claims and the names of all chapters.

    Raises ValueError if the first line is no head, or a quantity has no bar.

    >>> (card,) = cards(["C2.3-38: Weights can go", "weights removed", "the survey = 30 %"], {"C2.3-38"})
    >>> card.about, card.quantity, card.bars
    ('C2.3-38', 'weights removed', ['the survey = 30 %'])
    """
    found: list[Card] = []
    for line in filter(None, map(str.strip, lines)):
        head = HEAD.fullmatch(line)
        if head and head[1] in known:
            found.append(Card(head[1], head[2]))
        elif not found or (found[-1].quantity == "") == ("=" in line):
            raise ValueError(
                "a card must begin with `claim or chapter: what came out`, and may go on with a line of what its bars"
                f" show and lines `name = key`, not {line!r}"
            )
        elif found[-1].quantity:
            found[-1].bars.append(line)
        else:
            found[-1].quantity = line
    if bare := next((card for card in found if card.quantity and not card.bars), None):
        raise ValueError(f"the card {bare.about} says what its bars show, {bare.quantity!r}, but has no bar")
    return found


class Findings(Page):
    """Cards: what came out, a small figure, what the survey says with the verdict, and the chapter that shows it."""

    has_content = True

    def render(self) -> list[nodes.Node]:
        claims, results = self.load()
        known = {claim.id: claim for claim in claims}
        row = nodes.bullet_list(classes=["findings"])
        for card in cards(self.content, {*known, *chapters.names(self.root)}):
            claim = known.get(card.about)
            verdict, text = markdown.badge(claim, PROFILE, results) if claim else ("", "")
            box = nodes.list_item("", classes=["claim", f"claim-{slug(verdict)}"] if claim else ["claim"])
            row += self.parsed(f"**{card.title}**", box)
            if card.quantity:
                box += figure(card.quantity, card.bars, results[PROFILE])
            foot = nodes.paragraph()
            if claim:
                self.parsed(f"The survey: {claim.sentence}", box)
                foot += [label(verdict, link(self.env.docname, claim.id, text)), nodes.Text(" ")]
            box += foot
            foot += chapter_link(self.env.docname, claim.chapter if claim else card.about)
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
        if ERRATA in self.env.found_docs:
            first.append((str(sum(claim.erratum is not None for claim in claims)), "errata", self.address(ERRATA)))
        text = f"The numbers are those of the **{PROFILE}** profile, except where another one is named."
        return [
            *tiles(first),
            *tiles(self.verdict_tiles(claims, results)),
            self.parsed(text, nodes.container(classes=["facts"])),
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives; Sphinx calls it. Returns whether pages may be built in parallel."""
    for name, directive in (("headline", Headline), ("findings", Findings), ("state", State)):
        app.add_directive(name, directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
