"""What the directives of the book's pages share: the claims and the results, and Markdown parsed in place."""

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from lib.book import judging, ledger
from lib.book.claims import PUBLISHED, SECOND, Claim
from lib.book.ledger import Records
from lib.book.sphinx import ledger_markdown as markdown
from lib.book.sphinx.parts import slug
from lib.book.sphinx.theme import profile

PROFILE = profile()
PREVIEW = bool(os.environ.get("SURVEY_PREVIEW"))  # one page alone: other chapters may have no run here
LEDGER = "claims"  # the page of all claims


def load(root: Path, changed: tuple[int, ...]) -> tuple[list[Claim], dict[str, Records]]:
    """Return the claims, this build's results, and the records of the published and the second profile.

    A preview takes what this build has not measured from the committed records of its profile.

    root: the book's folder.
    changed: when each of their files was last changed; if one is newer, all are read again.
    Returns the claims and {profile: measurements}. Raises ValueError for a file that is wrong.
    """
    found = _read(root, changed)
    if isinstance(found, ValueError):
        raise ValueError(str(found)) from found
    return found


@lru_cache(maxsize=1)
def _read(root: Path, changed: tuple[int, ...]) -> tuple[list[Claim], dict[str, Records]] | ValueError:
    """What :func:`load` returns, or its error: every role asks again, and the claims take seconds to read."""
    try:
        return _load(root)
    except ValueError as error:
        return error.with_traceback(None)


def _load(root: Path) -> tuple[list[Claim], dict[str, Records]]:
    results = {name: ledger.load_results(name, root) for name in (PUBLISHED, SECOND)}
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
        """Return what the directive puts on the page; Sphinx calls it. A fault becomes an error on the page."""
        try:
            return self.render()
        except (ValueError, OSError) as error:
            raise self.error(f"{self.name}: {error}") from error

    def render(self) -> list[nodes.Node]:
        """Return what the directive puts on the page. Raises ValueError or OSError for a fault."""
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


def watched(env: Any) -> tuple[int, ...]:
    """Note every file behind these pages as a dependency of the page being read; return when each last changed."""
    root = Path(env.srcdir)
    patterns = ("survey/claims/*.yml", "survey/techniques.yml", "survey/references.bib")
    files = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    files += ledger.result_files(PROFILE, root, built=True)
    files += [path for name in (PUBLISHED, SECOND) for path in ledger.result_files(name, root)]
    for path in files:
        env.note_dependency(str(path))
    return tuple(path.stat().st_mtime_ns for path in files)
