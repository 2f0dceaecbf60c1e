"""Directives of the page of errata: where the survey differs from its sources.

``{errata-by-section}``   how many there are in each section, as bars that link there
``{errata}``              all of them, by section: what the survey says, what the source says, the claim's card
"""

from docutils import nodes
from sphinx.application import Sphinx

from lib.book.claims import SECTIONS, Claim, cited
from lib.book.sphinx import ledger_markdown as markdown
from lib.book.sphinx import ledger_summary as summary
from lib.book.sphinx.page import PROFILE, Page
from lib.book.sphinx.parts import label, link
from lib.book.sphinx.survey import by_id

BY_ARITHMETIC = "None is needed: a count, or the survey's own words, decides it."


def by_section(claims: list[Claim]) -> dict[str, list[Claim]]:
    """Return the claims that have an erratum, by the survey's sections and in their order.

    claims: all claims.

    >>> from lib.book.claims import Claim
    >>> rest = {"chapter": "pruning", "says": "A.", "verdict": "supported", "rules": {}}
    >>> claims = [Claim("C2.3-02", "2.3", erratum="B.", **rest), Claim("C2.3-01", "2.3", **rest)]
    >>> {section: [claim.id for claim in own] for section, own in by_section(claims).items()}
    {'2.3': ['C2.3-02']}
    """
    wrong = sorted((claim for claim in claims if claim.erratum), key=by_id)
    found = {number: [claim for claim in wrong if claim.section == number] for number in SECTIONS}
    return {number: own for number, own in found.items() if own}


def entry(claim: Claim) -> str:
    """Return an erratum as Markdown: what the survey says in our words, and what its source says.

    claim: one with an erratum. If that cites no source, the entry says why none is needed.

    >>> from lib.book.claims import Claim
    >>> says = "Two values take two bits (here, in a file)."
    >>> print(entry(Claim("T1-13", "4", "binarization", says, "contradicted", {}, erratum="Two values are one bit.")))
    The survey
    : Two values take two bits.
    <BLANKLINE>
    In fact
    : Two values are one bit.
    <BLANKLINE>
    Source
    : None is needed: a count, or the survey's own words, decides it.
    """
    erratum = claim.erratum or ""
    facts = [("The survey", claim.sentence), ("Its source" if cited(erratum) else "In fact", erratum)]
    facts += [] if cited(erratum) else [("Source", BY_ARITHMETIC)]
    return "\n\n".join(markdown.fact(term, [said]) for term, said in facts)


class BySection(Page):
    """How many errata each section has: a list of bars, each linked to the section below."""

    def render(self) -> list[nodes.Node]:
        claims = self.load()[0]
        found = by_section(claims)
        n, sourced = (sum(map(len, found.values())), sum(bool(cited(c.erratum or "")) for c in claims))
        most = max(map(len, found.values()), default=1)
        said = nodes.paragraph(
            text=f"{n} of {len(claims)} sentences differ from their source, or leave out what it says;"
            f" {sourced} entries name the source."
        )
        bars = nodes.bullet_list(classes=["errata-bars"])
        for number, own in found.items():
            name = nodes.inline(text=f"{number} {SECTIONS[number]}", classes=["name"])
            bar = nodes.raw(
                "", f'<span class="bar" style="--share: {100 * len(own) / most:.0f}%"></span>', format="html"
            )
            count = nodes.inline(text=str(len(own)), classes=["count"])
            address = f"#{nodes.make_id(summary.title(number))}"
            row = nodes.reference("", "", name, nodes.Text(" "), bar, count, refuri=address, internal=True)
            bars += nodes.list_item("", nodes.paragraph("", "", row))
        return [said, bars]


class Errata(Page):
    """All errata, by section."""

    def render(self) -> list[nodes.Node]:
        claims, results = self.load()
        sections: list[nodes.Node] = []
        for number, own in by_section(claims).items():
            boxes = []
            for claim in own:
                verdict, text = markdown.badge(claim, PROFILE, results)
                box = nodes.container(classes=["erratum", "facts"], ids=[f"erratum-{claim.id}"])
                id = nodes.strong("", "", link(self.env.docname, claim.id, claim.id))
                box += nodes.paragraph("", "", id, nodes.Text(" "), label(verdict, nodes.Text(text)))
                boxes.append(self.parsed(entry(claim), box))
            sections.append(self.section(summary.title(number), boxes))
        return sections


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.add_directive("errata-by-section", BySection)
    app.add_directive("errata", Errata)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
