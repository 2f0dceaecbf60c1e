"""Directives and a role that put the ledger, the catalogue and a run's cost on pages. Every page names its profile.

``{claims} pruning``  the claims of one chapter      ``{ledger}``     all of them, by section
``{catalogue}``       the techniques                 ``{state}``      the book in computed numbers
``{cost} pruning``    what a chapter's run used      ``{verdict}`C2.3-11` ``  one claim's badge
"""

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective, SphinxRole

from lib.book import chapters, ledger
from lib.book.sphinx import ledger_markdown as markdown

PROFILE = os.environ.get("SURVEY_PROFILE", "quick")
BANNER = (
    "<strong>Quick profile</strong>: small data, one machine. The published verdicts come from the standard profile."
)
HEADLINES = (("LeNet-300-100", "lenet300"), ("LeNet-5", "lenet5"))


@lru_cache(maxsize=1)
def load(root: Path, changed: tuple[int, ...]) -> tuple[list[ledger.Claim], dict[str, ledger.Records]]:
    """The claims, the results of this build, and the records of the published profile where this build is of another.

    ``changed`` is when their files did.
    """
    results = {ledger.PUBLISHED: ledger.load_results(ledger.PUBLISHED, root)}
    results[PROFILE] = ledger.load_results(PROFILE, root, built=True)
    return ledger.load_claims(root), results


class Page(SphinxDirective):
    """A directive that knows the book's root and data, and parses Markdown in place."""

    @property
    def root(self) -> Path:
        return Path(self.env.srcdir)

    def load(self) -> tuple[list[ledger.Claim], dict[str, ledger.Records]]:
        return load(self.root, watched(self.env))

    def run(self) -> list[nodes.Node]:
        try:
            return self.render()
        except (ValueError, OSError) as error:
            raise self.error(f"{self.name}: {error}") from error

    def render(self) -> list[nodes.Node]:
        raise NotImplementedError

    def parsed(self, text: str, node: nodes.Element) -> nodes.Element:
        """``node`` with the Markdown's content in it."""
        self.state.nested_parse(StringList(text.splitlines(), source=self.name), self.content_offset, node)
        return node

    def section(self, title: str, children: Iterable[nodes.Node]) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(title)], names=[nodes.fully_normalize_name(title)])
        section += nodes.title(title, title)
        section.extend(children)
        return section


class Claims(Page):
    """The claims of one chapter, each linked to its place in the ledger."""

    required_arguments = 1

    def render(self) -> list[nodes.Node]:
        claims, results = self.load()
        found = [claim for claim in claims if claim.chapter == self.arguments[0]]
        if not found:
            known = ", ".join(sorted({claim.chapter for claim in claims}))
            raise ValueError(f"the chapter {self.arguments[0]!r} has no claims: accepted are {known}")
        return [self.line(claim, results) for claim in found]

    def line(self, claim: ledger.Claim, results: dict[str, ledger.Records]) -> nodes.container:
        verdict, text = markdown.badge(claim, PROFILE, results)
        box = nodes.container(classes=["claim", "claim-line", f"claim-{slug(verdict)}"])
        id = nodes.strong("", "", link(self.env.docname, claim.id, claim.id))
        box += nodes.paragraph("", "", id, nodes.Text(" "), label(verdict, nodes.Text(text)), classes=["claim-head"])
        return self.parsed(claim.says, box)


class Ledger(Page):
    """Every claim, grouped by the survey's sections, each with its anchor."""

    def render(self) -> list[nodes.Node]:
        claims, results = self.load()
        sections = []
        for number, name in ledger.SECTIONS.items():
            cards = [self.card(claim, results) for claim in sorted(claims, key=by_id) if claim.section == number]
            sections += [self.section(f"Section {number}: {name}", cards)] if cards else []
        return [*tiles(verdict_tiles(claims, results)), *sections]

    def card(self, claim: ledger.Claim, results: dict[str, ledger.Records]) -> nodes.container:
        verdict, text = markdown.badge(claim, PROFILE, results)
        box = nodes.container(classes=["claim", f"claim-{slug(verdict)}"], ids=[anchor(claim.id)])
        box["names"] = [anchor(claim.id).lower()]
        self.state.document.note_explicit_target(box)
        head = nodes.paragraph("", "", nodes.strong(text=claim.id), nodes.Text(" "), classes=["claim-head"])
        head += label(verdict, nodes.Text(text))
        if claim.verdict != ledger.NOT_TESTABLE:
            head += [nodes.Text(" "), chapter_link(self.env.docname, claim.chapter)]
        box += head
        return self.parsed(markdown.card(claim, PROFILE, results), box)


class Catalogue(Page):
    """The techniques that are here, by section, and the ids of those that are not yet."""

    def render(self) -> list[nodes.Node]:
        catalogue = ledger.load_techniques(self.root)
        sections = []
        for number, name in ledger.SECTIONS.items():
            rows = [self.technique(row) for row in catalogue["here"] if row["section"] == number]
            sections += [self.section(f"Section {number}: {name}", rows)] if rows else []
        missing = [
            markdown.fact(f"{number} {ledger.SECTIONS[number]}", [", ".join(f"`{id}`" for id in ids)])
            for number, ids in catalogue["not_yet_here"].items()
        ]
        later = self.parsed("\n\n".join(missing), nodes.container(classes=["facts"]))
        return [*sections, self.section("Not yet here", [later])]

    def technique(self, row: dict[str, Any]) -> nodes.container:
        box = nodes.container(classes=["claim"], ids=[row["id"]])
        box += nodes.paragraph("", "", nodes.strong(text=row["name"]), classes=["claim-head"])
        return self.parsed(markdown.technique(row, self.source_link(row["file"])), box)

    def source_link(self, path: str) -> str:
        options = self.config.html_theme_options
        if not options.get("use_repository_button"):  # Jupyter Book fills in an address of its own where none is known
            return f"`{path}`"
        return f"[`{path}`]({options['repository_url']}/blob/{options['repository_branch']}/{path})"


class State(Page):
    """The book in computed numbers: techniques, chapters, claims by verdict, and its first result."""

    def render(self) -> list[nodes.Node]:
        claims, results = self.load()
        catalogue = ledger.load_techniques(self.root)
        here = len(catalogue["here"])
        everything = here + sum(len(ids) for ids in catalogue["not_yet_here"].values())
        first = [(f"{here} of {everything}", "techniques"), (str(len(chapters.names(self.root))), "chapters")]
        names = self.data_names()
        sentences = [markdown.headline(name, subject, names, results[PROFILE]) for name, subject in HEADLINES]
        found = [sentence for sentence in sentences if sentence]
        text = "\n".join(f"- {sentence}" for sentence in found) or "The first result was not measured in this build."
        told = f"The numbers are those of the **{PROFILE}** profile, except where another one is named.\n\n{text}\n"
        return [
            *tiles([*first, (str(len(claims)), "claims in the ledger")]),
            *tiles(verdict_tiles(claims, results)),
            self.parsed(told, nodes.container(classes=["headline"])),
        ]

    def data_names(self) -> str:
        path = chapters.built_results(self.root, PROFILE) / "quantization.json"
        data = ledger.load_result(path)["data"] if path.exists() else []
        return " and ".join(dict.fromkeys(one["name"] for one in data)) or "unnamed data"


class Cost(Page):
    """What the run of one chapter used, from its stamped notebook and its results."""

    required_arguments = 1

    def render(self) -> list[nodes.Node]:
        chapter = self.arguments[0]
        done = chapters.executed(self.root, chapter, PROFILE)
        path = chapters.built_results(self.root, PROFILE) / f"{chapter}.json"
        if done is None or not path.exists():
            raise ValueError(f"the chapter {chapter!r} has no finished run of the {PROFILE} profile: run it first")
        text = markdown.cost(PROFILE, ledger.load_result(path), done.metadata["survey"])
        return [self.parsed(text, nodes.container(classes=["facts"]))]


class Verdict(SphinxRole):
    """The badge of one claim, linked to its place in the ledger."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            claims, results = load(Path(self.env.srcdir), watched(self.env))
            claim = next((claim for claim in claims if claim.id == self.text), None)
            if claim is None:
                raise ValueError(f"no claim has the id {self.text!r}: the ids are in survey/claims")
            verdict, text = markdown.badge(claim, PROFILE, results)
        except (ValueError, OSError) as error:
            message = self.inliner.reporter.error(f"verdict: {error}", line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [message]
        return [label(verdict, link(self.env.docname, claim.id, f"{claim.id} {text}"))], []


def verdict_tiles(claims: list[ledger.Claim], results: dict[str, ledger.Records]) -> list[tuple[str, str]]:
    counts = ledger.tally(claims, PROFILE, results)
    return [(str(n), f"{markdown.SIGNS[verdict]} {verdict}") for verdict, n in counts.items()]


def tiles(pairs: list[tuple[str, str]]) -> list[nodes.Node]:
    """A row of numbers with their names below."""
    row = nodes.bullet_list(classes=["tiles"])
    for number, name in pairs:
        text = nodes.paragraph("", "", nodes.strong(text=number), nodes.Text(" "), nodes.inline(text=name))
        row += nodes.list_item("", text)
    return [row]


def label(verdict: str, text: nodes.Node) -> nodes.inline:
    return nodes.inline("", "", text, classes=["verdict", f"verdict-{slug(verdict)}"])


def link(docname: str, id: str, text: str) -> addnodes.pending_xref:
    """A link to a claim in the ledger; a missing ledger page is a warning."""
    about = {"refdomain": "std", "reftype": "ref", "reftarget": anchor(id).lower(), "refdoc": docname}
    return addnodes.pending_xref("", nodes.inline(text, text), refexplicit=True, refwarn=True, **about)


def chapter_link(docname: str, chapter: str) -> addnodes.pending_xref:
    about = {"refdomain": "std", "reftype": "doc", "reftarget": f"/chapters/{chapter}", "refdoc": docname}
    text = nodes.inline("", f"measured in {chapter}", classes=["doc"])
    return addnodes.pending_xref("", text, refexplicit=True, refwarn=True, **about)


def anchor(id: str) -> str:
    return f"claim-{id}"


def slug(verdict: str) -> str:
    return verdict.replace(" ", "-")


def by_id(claim: ledger.Claim) -> tuple[str, ...]:
    return tuple(re.split(r"\D+", claim.id))


def watched(env: Any) -> tuple[int, ...]:
    """Note every file behind these pages as a dependency of the page being read; return when each last changed."""
    root = Path(env.srcdir)
    patterns = ("survey/claims/*.yml", "survey/techniques.yml", "survey/references.bib")
    files = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    files += ledger.result_files(PROFILE, root, built=True) + ledger.result_files(ledger.PUBLISHED, root)
    for path in files:
        env.note_dependency(str(path))
    return tuple(path.stat().st_mtime_ns for path in files)


def say_profile(app: Sphinx, config: Config) -> None:
    """The profile of the build in the foot of every page; a quick build says so at the top as well."""
    options = config.html_theme_options
    options["extra_footer"] = (
        f'{options.get("extra_footer") or ""}<p class="profile">Profile of this build: {PROFILE}.</p>'
    )
    if PROFILE == "quick":
        options["announcement"] = BANNER


def mend_roles(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Docutils puts the withdrawn role ``doc-biblioentry`` into a list, where readers' software expects items."""
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Sphinx) -> dict[str, bool]:
    for name, directive in (
        ("claims", Claims),
        ("ledger", Ledger),
        ("catalogue", Catalogue),
        ("state", State),
        ("cost", Cost),
    ):
        app.add_directive(name, directive)
    app.add_role("verdict", Verdict())
    app.connect("config-inited", say_profile)
    app.connect("html-page-context", mend_roles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
