"""The directive ``{roadmap}``: the survey's Figure 1 as a map of links, from its parts to sections and chapters.

The parts come from ``_toc.yml``, the counts from ``survey/techniques.yml``, so neither is written twice.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from lib.book import ledger, passages
from lib.book.claims import SECTIONS
from lib.book.sphinx import ledger_markdown as markdown
from lib.book.sphinx import ledger_summary as summary
from lib.book.sphinx.page import Page
from lib.book.sphinx.parts import chapter_link

TITLES = SECTIONS | {"2": "Compression techniques"}  # the survey's first half, about which it makes no claim of its own
CAPTION = re.compile(r"(\d(?:\.\d)*) (.+)")
TECHNIQUES = "techniques"  # the page that lists them by section


@dataclass
class Place:
    """One section of the survey on the map.

    number: "2.3"; title: "Pruning".
    own: how many techniques belong to this section itself.
    chapters: names of its chapters, in the book's order.
    below: the sections within it.
    """

    number: str
    title: str
    own: int = 0
    chapters: list[str] = field(default_factory=list)
    below: list["Place"] = field(default_factory=list)

    @property
    def techniques(self) -> int:
        """How many techniques it has, including those of the sections within it."""
        return self.own + sum(place.techniques for place in self.below)

    @property
    def first(self) -> str | None:
        """Its first chapter, or else that of the sections within it; None if there is none."""
        return next(iter([*self.chapters, *filter(None, (place.first for place in self.below))]), None)


def tree(toc: Mapping[str, Any], sections: Iterable[str]) -> list[Place]:
    """Order the book's chapters by the survey's sections.

    toc: the table of contents; the parts whose captions begin with a section's number are on the map.
    sections: the section number of each technique.

    Returns the survey's parts in order, each with what is in it. Raises ValueError for a section that the survey
    does not have.

    >>> toc = {"parts": [{"caption": "2.3 Pruning", "chapters": [{"file": "chapters/pruning"}]}]}
    >>> (half,) = tree(toc, ["2.3", "2.3"])
    >>> half.title, half.techniques, half.below[0].chapters
    ('Compression techniques', 2, ['pruning'])
    """
    counts = Counter(sections)
    parts = {said[1]: part for part in toc.get("parts", []) if (said := CAPTION.fullmatch(part["caption"]))}
    places: dict[str, Place] = {}
    for number in sorted({above for one in (*parts, *counts) for above in _from_above(one)}):
        if number not in TITLES:
            raise ValueError(f"a section of the map must be one of {', '.join(sorted(TITLES))}, not {number!r}")
        files = [entry["file"] for entry in parts.get(number, {}).get("chapters", [])]
        place = Place(number, TITLES[number], counts[number], [file.rpartition("/")[2] for file in files])
        places[number] = place
        if "." in number:
            places[number.rpartition(".")[0]].below.append(place)
    return [place for number, place in places.items() if "." not in number]


def _from_above(number: str) -> list[str]:
    """The sections that lead to one: of 3.2.1 they are 3, 3.2 and 3.2.1."""
    steps = number.split(".")
    return [".".join(steps[: i + 1]) for i in range(len(steps))]


class Roadmap(Page):
    """The map: nested lists of links, which a style sheet draws as a tree."""

    def render(self) -> list[nodes.Node]:
        self.env.note_dependency(str(self.root / "_toc.yml"))
        self.load()  # notes the catalogue as well
        toc = yaml.safe_load((self.root / "_toc.yml").read_text("utf-8"))
        rows = ledger.load_techniques(self.root)
        own = Counter(row["chapter"] for row in rows)
        parts = [self.place(place, own) for place in tree(toc, (row["section"] for row in rows))]
        return [nodes.container("", nodes.bullet_list("", *parts), classes=["roadmap"])]

    def place(self, place: Place, own: Mapping[str, int]) -> nodes.list_item:
        """Return a section with its chapters and the sections within it.

        place: the section.
        own: chapter -> how many techniques it shows.
        """
        items = [self.line([self.chapter(name)], own[name], "roadmap-chapter") for name in place.chapters]
        items += [self.place(one, own) for one in place.below]
        kind = "roadmap-half" if "." not in place.number else "roadmap-section"
        item = self.line([nodes.strong(text=place.number), nodes.Text(" "), self.title(place)], place.techniques, kind)
        if place.below:
            item["classes"].append("roadmap-branch")
        if items:
            item += nodes.bullet_list("", *items)
        return item

    def line(self, shown: list[nodes.Node], techniques: int, kind: str) -> nodes.list_item:
        """Return one node of the map: what is shown, and how many techniques there are.

        ``kind`` is its CSS class."""
        if techniques:
            said = markdown.counted(techniques, "technique")
            shown = [*shown, nodes.Text(" "), nodes.inline(text=said, classes=["roadmap-count"])]
        return nodes.list_item("", nodes.paragraph("", "", *shown), classes=[kind])

    def title(self, place: Place) -> nodes.Node:
        """Return a section's name: a link to the list of its techniques, or to its first chapter if it has none."""
        if place.own:
            mark = nodes.make_id(summary.title(place.number))  # as the list of the techniques has it
            address = self.address(TECHNIQUES, f"#{mark}")
            return nodes.reference("", place.title, refuri=address, internal=True)
        return self.chapter(place.first, place.title) if place.first else nodes.inline(text=place.title)

    def chapter(self, name: str, text: str = "") -> addnodes.pending_xref:
        """Return a link to a chapter.

        name: of its file, without ending.
        text: what the link says; by default the chapter's title, in short.
        """
        link = chapter_link(self.env.docname, name)
        link["refexplicit"] = True
        link[0].replace_self(nodes.inline("", text or passages.title(self.root, name), classes=["doc"]))
        return link


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.add_directive("roadmap", Roadmap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
