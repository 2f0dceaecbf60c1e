"""Directives and a role that put the ledger and the catalogue on pages.

``{claims} pruning``  the claims of one chapter      ``{ledger}``     all of them, by section
``{catalogue}``       the techniques                 ``{verdict}`C2.3-11` ``  one claim's badge
"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from lib.book import chapters, judging, ledger, passages, telling
from lib.book.claims import NOT_TESTABLE, SECTIONS, Claim
from lib.book.ledger import Records
from lib.book.sphinx import ledger_markdown as markdown
from lib.book.sphinx import ledger_summary as summary
from lib.book.sphinx.page import PROFILE, Page, load, watched
from lib.book.sphinx.parts import anchor, chapter_link, fold, label, link, section_link, slug, tiles


class Cards(Page):
    """What the pages with claims share."""

    def tell(self, claim: Claim, results: dict[str, Records], box: nodes.Element) -> nodes.Element:
        """Add what was measured for a claim, in one sentence, to its box, and return the box.

        claim: any claim.
        results: the measurements of each profile.
        box: the claim's.
        """
        first = len(box)
        self.parsed(telling.told(claim, PROFILE, results), box)
        for paragraph in box[first:]:
            paragraph["classes"].append("told")
        return box


class Claims(Cards):
    """The claims of one chapter in one folded line, each linked to its place in the ledger."""

    required_arguments = 1

    def render(self) -> list[nodes.Node]:
        claims, results = self.load()
        own = [claim for claim in claims if claim.chapter == self.arguments[0]]
        if not own:
            known = ", ".join(sorted({claim.chapter for claim in claims}))
            raise ValueError(f"a chapter with claims must be one of {known}, not {self.arguments[0]!r}")
        return [fold(self.summary(own, results), [self.line(claim, results) for claim in own])]

    def summary(self, own: list[Claim], results: dict[str, Records]) -> list[nodes.Node]:
        """Return how many of a chapter's claims have which verdict: the line that is always shown."""
        parts: list[nodes.Node] = []
        for verdict, n in judging.tally(own, PROFILE, results).items():
            parts += [nodes.Text(", " if parts else ": "), label(verdict, nodes.Text(f"{n} {verdict}"))]
        return [nodes.Text(f"{markdown.counted(len(own), 'claim')} of the survey"), *parts]

    def line(self, claim: Claim, results: dict[str, Records]) -> nodes.container:
        """Return one claim in short: id, badge and text, with what was measured for it in one sentence."""
        verdict, text = markdown.badge(claim, PROFILE, results)
        box = nodes.container(classes=["claim", "claim-line", f"claim-{slug(verdict)}"], ids=[anchor(claim.id)])
        id = nodes.strong("", "", link(self.env.docname, claim.id, claim.id))
        box += nodes.paragraph("", "", id, nodes.Text(" "), label(verdict, nodes.Text(text)), classes=["claim-head"])
        return self.tell(claim, results, self.parsed(claim.says, box))


class Ledger(Cards):
    """Every claim, grouped by the survey's sections, each with its anchor."""

    def render(self) -> list[nodes.Node]:
        claims, results = self.load()
        for chapter in chapters.names(self.root):
            self.env.note_dependency(str(self.root / "chapters" / f"{chapter}.py"))  # cards link to their sections
        sections = []
        for number in SECTIONS:
            cards = [self.card(claim, results) for claim in sorted(claims, key=by_id) if claim.section == number]
            sections += [self.section(summary.title(number), cards)] if cards else []
        filters = nodes.container(classes=["ledger-filter"], ids=[summary.FILTER])  # ledger.js fills it
        titles = {claim.chapter: passages.title(self.root, claim.chapter) for claim in claims}
        filters += nodes.raw("", summary.choices(titles), format="html")
        return [*self.overview(claims, results), *self.doubts(claims, results), filters, *sections]

    def overview(self, claims: list[Claim], results: dict[str, Records]) -> list[nodes.Node]:
        """Count the claims by verdict: in total, in bars by section, and in a folded table."""
        tallies = summary.rows(claims, PROFILE, results)
        apart = {f"{markdown.SIGNS[verdict]} {verdict}" for verdict in summary.APART}
        counts = self.verdict_tiles(claims, results)
        found = tiles([tile for tile in counts if tile[1] not in apart])
        if beside := [tile for tile in counts if tile[1] in apart]:
            found += [nodes.paragraph("", "Counted separately, since no measurement decides them:"), *tiles(beside)]
        for row in found:
            row["classes"].append("totals")
        bars = nodes.raw("", summary.bars(tallies), format="html")
        table = nodes.raw("", summary.table(tallies, judging.tally(claims, PROFILE, results)), format="html")
        return [*found, bars, fold([nodes.Text("The same as a table")], [table])]

    def doubts(self, claims: list[Claim], results: dict[str, Records]) -> list[nodes.Node]:
        """Return what chance may have decided, and what other data say, each with a folded list."""
        decided = judging.sampled(claims, PROFILE, results)
        lines = markdown.fragile(decided)
        found = self.listed(
            markdown.chance(decided),
            f"{markdown.counted(len(lines), 'rule')} whose interval ends near its bound",
            lines,
        )
        if second := markdown.second_opinion(claims, results):
            said, others, lines = second
            found += self.listed(said, f"{markdown.counted(others, 'verdict')} that other data change", lines)
        return found

    def listed(self, said: str, summary: str, lines: list[str]) -> list[nodes.Node]:
        """Return a paragraph, and a fold with a list if there is something to list."""
        shown = [self.parsed(said, nodes.container(classes=["facts"]))]
        if lines:
            listed = self.parsed("\n".join(f"- {line}" for line in lines), nodes.container(classes=["facts"]))
            shown.append(fold([nodes.Text(summary)], [listed]))
        return shown

    def card(self, claim: Claim, results: dict[str, Records]) -> nodes.container:
        """Return one claim in full, with what was measured; ``results`` are the measurements of each profile."""
        verdict, text = markdown.badge(claim, PROFILE, results)
        counted = judging.counted_as(claim, PROFILE, results)
        # ledger.js reads is- and of-
        styles = ["claim", f"claim-{slug(verdict)}", f"is-{slug(counted)}", f"of-{claim.chapter}"]
        box = nodes.container(classes=styles, ids=[anchor(claim.id)])
        box["names"] = [anchor(claim.id).lower()]
        self.state.document.note_explicit_target(box)
        head = nodes.paragraph("", "", nodes.strong(text=claim.id), nodes.Text(" "), classes=["claim-head"])
        head += label(verdict, nodes.Text(text))
        box += head
        self.parsed(claim.says, box)
        self.tell(claim, results, box)
        self.parsed(markdown.card(claim, PROFILE, results), box)
        box += self.place(claim)
        if below := self.below(claim, results):
            box += below
        return box

    def place(self, claim: Claim) -> nodes.paragraph:
        """Return the line that links to the part of a chapter in which a claim is measured."""
        if claim.verdict == NOT_TESTABLE:
            return nodes.paragraph("", "See ", chapter_link(self.env.docname, claim.chapter), classes=["claim-place"])
        chapter, heading = passages.measuring(claim, self.root)
        docname, within = self.env.docname, passages.title(self.root, chapter)
        led = section_link(docname, chapter, heading, within) if heading else chapter_link(docname, chapter)
        return nodes.paragraph("", "Measured in ", led, classes=["claim-place"])

    def below(self, claim: Claim, results: dict[str, Records]) -> nodes.Node | None:
        """Return the fold with every rule and record of a claim, its errata and its history; None if there are none."""
        details = markdown.details(claim, PROFILE, results)
        if not details:
            return None
        text = "\n\n".join(markdown.fact(term, lines) for term, lines in details.items())
        judged = judging.judgments(claim, PROFILE, results)
        line = markdown.hidden(details, len(judged[0].findings) if judged else 0)
        return fold([nodes.Text(line)], self.parsed(text, nodes.container()).children)


class Catalogue(Page):
    """The techniques, by section."""

    def render(self) -> list[nodes.Node]:
        catalogue = ledger.load_techniques(self.root)
        sections = []
        for number in SECTIONS:
            rows = [self.technique(row) for row in catalogue if row["section"] == number]
            sections += [self.section(summary.title(number), rows)] if rows else []
        return sections

    def technique(self, row: dict[str, Any]) -> nodes.container:
        """Return the card of one technique, a row of the catalogue."""
        box = nodes.container(classes=["claim"], ids=[row["id"]])
        box += nodes.paragraph("", "", nodes.strong(text=row["name"]), classes=["claim-head"])
        return self.parsed(markdown.technique(row, self.source_link(row["file"])), box)

    def source_link(self, path: str) -> str:
        """Return Markdown that leads to a file of the repository, or only names it if no address is known."""
        options = self.config.html_theme_options
        if not options.get("use_repository_button"):  # Jupyter Book fills in its own address where none is known
            return f"`{path}`"
        return f"[`{path}`]({options['repository_url']}/blob/{options['repository_branch']}/{path})"


class Verdict(SphinxRole):
    """The badge of one claim, linked to its place in the ledger."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the badge, or an error on the page for an unknown claim; Sphinx calls it."""
        try:
            claims, results = load(Path(self.env.srcdir), watched(self.env))
            claim = next((claim for claim in claims if claim.id == self.text), None)
            if claim is None:
                raise ValueError(f"a claim must be one of those in survey/claims, not {self.text!r}")
            verdict, text = markdown.badge(claim, PROFILE, results)
        except (ValueError, OSError) as error:
            message = self.inliner.reporter.error(f"verdict: {error}", line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [message]
        return [label(verdict, link(self.env.docname, claim.id, f"{claim.id} {text}"))], []


def lighten(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Remove the tooltips with bibliography entries from the ledger's hundreds of links; Sphinx calls it."""
    if 'class="ledger-filter' in context.get("body", ""):
        context["body"] = re.sub(r'(<a class="reference internal" href="[^"]*") title="[^"]*"', r"\1", context["body"])


def by_id(claim: Claim) -> tuple[int, ...]:
    """Return the key that sorts claims by the numbers in their ids."""
    return tuple(map(int, re.findall(r"\d+", claim.id)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives and the role; Sphinx calls it. Returns whether pages may be built in parallel."""
    for name, directive in (
        ("claims", Claims),
        ("ledger", Ledger),
        ("catalogue", Catalogue),
    ):
        app.add_directive(name, directive)
    app.add_role("verdict", Verdict())
    app.connect("html-page-context", lighten)
    app.setup_extension("lib.book.sphinx.parts")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
