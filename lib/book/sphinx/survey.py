"""Directives and a role that put the ledger, the catalogue and a run's cost on pages.

``{claims} pruning``  the claims of one chapter      ``{ledger}``     all of them, by section
``{catalogue}``       the techniques                 ``{verdict}`C2.3-11` ``  one claim's badge
``{cost} pruning``    what a chapter's run used
"""

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from lib.book import judging, last_run, ledger
from lib.book.claims import NOT_TESTABLE, PUBLISHED, SECTIONS, Claim
from lib.book.ledger import Records
from lib.book.sphinx import ledger_markdown as markdown
from lib.book.sphinx.parts import anchor, chapter_link, fold, label, link, slug, tiles

PROFILE = os.environ.get("SURVEY_PROFILE", "quick")
PREVIEW = bool(os.environ.get("SURVEY_PREVIEW"))  # one page alone: other chapters may have no run here
LEDGER = "claims"  # the page of all claims


@lru_cache(maxsize=1)
def load(root: Path, changed: tuple[int, ...]) -> tuple[list[Claim], dict[str, Records]]:
    """Return the claims, this build's results, and the published profile's records if this build is of another.

    A preview takes the committed records of its profile for what this build has not measured.

    root: the book's folder.
    changed: when each of their files changed, so that they are read again when one does.
    Returns the claims and {profile: measurements}.
    """
    results = {PUBLISHED: ledger.load_results(PUBLISHED, root)}
    committed = ledger.load_results(PROFILE, root) if PREVIEW else {}
    results[PROFILE] = committed | ledger.load_results(PROFILE, root, built=True)
    return ledger.load_claims(root), results


class Page(SphinxDirective):
    """A directive that knows the book's root and data, and parses Markdown in place."""

    @property
    def root(self) -> Path:
        """The book's folder."""
        return Path(self.env.srcdir)

    def load(self) -> tuple[list[Claim], dict[str, Records]]:
        """Return the claims and {profile: measurements}."""
        return load(self.root, watched(self.env))

    def run(self) -> list[nodes.Node]:
        """Return what the directive puts on the page; Sphinx calls it. What is wrong becomes an error of the page."""
        try:
            return self.render()
        except (ValueError, OSError) as error:
            raise self.error(f"{self.name}: {error}") from error

    def render(self) -> list[nodes.Node]:
        """Return what the directive puts on the page. Raises ValueError or OSError for what is wrong."""
        raise NotImplementedError

    def parsed(self, text: str, node: nodes.Element) -> nodes.Element:
        """Parse Markdown into a node and return the node.

        text: the Markdown.
        node: what to fill.
        """
        self.state.nested_parse(StringList(text.splitlines(), source=self.name), self.content_offset, node)
        return node

    def address(self, page: str, query: str = "") -> str:
        """Return the address of a page of the book, seen from this one, with a query."""
        return self.env.app.builder.get_relative_uri(self.env.docname, page) + query

    def verdict_tiles(self, claims: list[Claim], results: dict[str, Records]) -> list[tuple[str, str, str]]:
        """Return the number of claims with each verdict, for :func:`tiles`, each linked to these claims."""
        return [
            (str(n), f"{markdown.SIGNS[verdict]} {verdict}", self.address(LEDGER, f"?verdict={slug(verdict)}"))
            for verdict, n in judging.tally(claims, PROFILE, results).items()
        ]

    def section(self, title: str, children: Iterable[nodes.Node]) -> nodes.section:
        """Return a section with this title and these children."""
        section = nodes.section(ids=[nodes.make_id(title)], names=[nodes.fully_normalize_name(title)])
        section += nodes.title(title, title)
        section.extend(children)
        return section


class Claims(Page):
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
        """Return how many of a chapter's claims have which verdict: the line that is always there."""
        parts: list[nodes.Node] = []
        for verdict, n in judging.tally(own, PROFILE, results).items():
            parts += [nodes.Text(", " if parts else ": "), label(verdict, nodes.Text(f"{n} {verdict}"))]
        return [nodes.Text(f"{markdown.counted(len(own), 'claim')} of the survey"), *parts]

    def line(self, claim: Claim, results: dict[str, Records]) -> nodes.container:
        """Return one claim in short: id, badge and text, with the results of each profile."""
        verdict, text = markdown.badge(claim, PROFILE, results)
        box = nodes.container(classes=["claim", "claim-line", f"claim-{slug(verdict)}"], ids=[anchor(claim.id)])
        id = nodes.strong("", "", link(self.env.docname, claim.id, claim.id))
        box += nodes.paragraph("", "", id, nodes.Text(" "), label(verdict, nodes.Text(text)), classes=["claim-head"])
        return self.parsed(claim.says, box)


class Ledger(Page):
    """Every claim, grouped by the survey's sections, each with its anchor."""

    def render(self) -> list[nodes.Node]:
        claims, results = self.load()
        sections = []
        for number, name in SECTIONS.items():
            cards = [self.card(claim, results) for claim in sorted(claims, key=by_id) if claim.section == number]
            sections += [self.section(f"Section {number}: {name}", cards)] if cards else []
        tally = tiles(self.verdict_tiles(claims, results))
        return [*tally, nodes.container(classes=["ledger-filter"]), *sections]  # ledger.js fills the box

    def card(self, claim: Claim, results: dict[str, Records]) -> nodes.container:
        """Return one claim in full, with what was measured; ``results`` are the measurements of each profile."""
        verdict, text = markdown.badge(claim, PROFILE, results)
        counted = judging.shown(claim, judging.judgments(claim, PROFILE, results), PROFILE)
        styles = ["claim", f"claim-{slug(verdict)}", f"is-{slug(counted)}"]  # ledger.js reads the last
        box = nodes.container(classes=styles, ids=[anchor(claim.id)])
        box["names"] = [anchor(claim.id).lower()]
        self.state.document.note_explicit_target(box)
        head = nodes.paragraph("", "", nodes.strong(text=claim.id), nodes.Text(" "), classes=["claim-head"])
        head += label(verdict, nodes.Text(text))
        if claim.verdict != NOT_TESTABLE:
            place = nodes.inline("", "measured in ", chapter_link(self.env.docname, claim.chapter))
            head += [nodes.Text(" "), place]
        box += head
        self.parsed(markdown.card(claim, PROFILE, results), box)
        if records := markdown.records(claim, PROFILE, results):
            facts = self.parsed(records, nodes.container(classes=["facts"]))
            box += fold([nodes.Text("Records and rules")], [facts])
        return box


class Catalogue(Page):
    """The techniques that are here, by section, and the ids of those that are not yet."""

    def render(self) -> list[nodes.Node]:
        catalogue = ledger.load_techniques(self.root)
        sections = []
        for number, name in SECTIONS.items():
            rows = [self.technique(row) for row in catalogue["here"] if row["section"] == number]
            sections += [self.section(f"Section {number}: {name}", rows)] if rows else []
        missing = [
            markdown.fact(f"{number} {SECTIONS[number]}", [", ".join(f"`{id}`" for id in ids)])
            for number, ids in catalogue["not_yet_here"].items()
        ]
        later = self.parsed("\n\n".join(missing), nodes.container(classes=["facts"]))
        return [*sections, self.section("Not yet here", [later])]

    def technique(self, row: dict[str, Any]) -> nodes.container:
        """Return the card of one technique, a row of the catalogue."""
        box = nodes.container(classes=["claim"], ids=[row["id"]])
        box += nodes.paragraph("", "", nodes.strong(text=row["name"]), classes=["claim-head"])
        return self.parsed(markdown.technique(row, self.source_link(row["file"])), box)

    def source_link(self, path: str) -> str:
        """Return Markdown that leads to a file of the repository, or only names it where no address is known."""
        options = self.config.html_theme_options
        if not options.get("use_repository_button"):  # Jupyter Book fills in an address of its own where none is known
            return f"`{path}`"
        return f"[`{path}`]({options['repository_url']}/blob/{options['repository_branch']}/{path})"


class Cost(Page):
    """What the run of one chapter used, in one folded line, from its stamped notebook and its results."""

    required_arguments = 1

    def render(self) -> list[nodes.Node]:
        chapter = self.arguments[0]
        done = last_run.executed(self.root, chapter, PROFILE)
        path = last_run.built_results(self.root, PROFILE) / f"{chapter}.json"
        if done is None or not path.exists():
            raise ValueError(f"the chapter {chapter!r} has no finished run of the {PROFILE} profile: run it first")
        result, stamp = ledger.load_result(path), done.metadata["survey"]
        facts = self.parsed(markdown.cost(PROFILE, result, stamp), nodes.container(classes=["facts"]))
        return [fold([nodes.Text(markdown.cost_in_short(PROFILE, result, stamp))], [facts])]


class Verdict(SphinxRole):
    """The badge of one claim, linked to its place in the ledger."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the badge, or an error of the page for a claim that is not there; Sphinx calls it."""
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


def by_id(claim: Claim) -> tuple[str, ...]:
    """Return the key that sorts claims by the numbers in their ids."""
    return tuple(re.split(r"\D+", claim.id))


def watched(env: Any) -> tuple[int, ...]:
    """Note every file behind these pages as a dependency of the page being read; return when each last changed."""
    root = Path(env.srcdir)
    patterns = ("survey/claims/*.yml", "survey/techniques.yml", "survey/references.bib")
    files = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    files += ledger.result_files(PROFILE, root, built=True) + ledger.result_files(PUBLISHED, root)
    for path in files:
        env.note_dependency(str(path))
    return tuple(path.stat().st_mtime_ns for path in files)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives and the role; Sphinx calls it. Returns whether pages may be built at once."""
    for name, directive in (
        ("claims", Claims),
        ("ledger", Ledger),
        ("catalogue", Catalogue),
        ("cost", Cost),
    ):
        app.add_directive(name, directive)
    app.add_role("verdict", Verdict())
    app.setup_extension("lib.book.sphinx.parts")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
