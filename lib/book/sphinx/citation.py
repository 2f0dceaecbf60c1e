"""``{citation}``: how to cite the book, as BibTeX, from ``CITATION.cff``."""

from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lib.book.sphinx.repository import known_address


def bibtex(cff: dict[str, Any], address: str | None = None) -> str:
    """Return an entry of BibTeX.

    cff: what a CITATION.cff says, with authors, a title and a date.
    address: the book's address on the web, if known.
    Raises ValueError for an author without a name, and for a field that is missing.
    """
    for field in ("authors", "title", "date-released"):
        if not cff.get(field):
            raise ValueError(f"CITATION.cff must have {field!r}, which is missing or empty")
    year = str(cff["date-released"])[:4]
    fields = {
        "author": " and ".join(map(_author, cff["authors"])),
        "title": f"{{{cff['title']}}}",
        "year": year,
        **({"url": address} if address else {}),
    }
    key = next(word for word in str(cff["title"]).lower().split() if word.isalpha())
    lines = [f"  {name:<6} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{key}{year},", *lines, "}"])


def _author(person: dict[str, str]) -> str:
    if "name" in person:
        return f"{{{person['name']}}}"  # a group: braces keep BibTeX from taking it apart
    if "family-names" not in person:
        raise ValueError(f"an author in CITATION.cff must have 'name' or 'family-names', not {person!r}")
    return ", ".join(person[part] for part in ("family-names", "given-names") if part in person)


class Citation(SphinxDirective):
    """The BibTeX entry of this book, to copy."""

    def run(self) -> list[nodes.Node]:
        """Return the entry as a block of code; Sphinx calls it. A fault becomes an error on the page."""
        path = Path(self.env.srcdir) / "CITATION.cff"
        self.env.note_dependency(str(path))
        try:
            text = bibtex(yaml.safe_load(path.read_text("utf-8")), known_address(self.config))
        except (ValueError, OSError, yaml.YAMLError) as error:
            raise self.error(f"citation: {error}") from error
        return [nodes.literal_block(text, text, language="bibtex")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.add_directive("citation", Citation)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
