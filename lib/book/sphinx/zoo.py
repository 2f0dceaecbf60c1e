"""The directive ``{zoo}``: each technique on networks it was not written for, as a table with reasons of refusal."""

from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from lib.book import catalogue
from lib.book.sphinx.page import Page
from lib.book.sphinx.parts import fold
from lib.book.zoo import matrix

CELLS = {"works": ("✓", "works"), "refused": ("–", "refused")}


class Zoo(Page):
    """The recorded trials: a row for each technique, a column for each network, and the refusals below."""

    def render(self) -> list[nodes.Node]:
        self.env.note_dependency(str(self.root / matrix.RECORD))
        record = matrix.load(self.root)
        if not record:
            raise ValueError(f"{matrix.RECORD} holds no trial: make zoo")
        names = {row["id"]: row["name"] for row in catalogue.rows(self.root)}
        counts = matrix.tally(record)
        said = f"{counts['works']} of {sum(counts.values())} trials work; {counts['refused']} are refused by name."
        reasons = [
            nodes.paragraph("", "", nodes.strong(text=names[id]), *refusals(record[id]), classes=["refusals"])
            for id in record
        ]
        why = fold([nodes.Text("Why the others are refused")], [r for r in reasons if len(r.children) > 1])
        return [nodes.paragraph(text=said), nodes.raw("", table(record, names), format="html"), why]


def refusals(row: dict[str, Any]) -> list[nodes.Node]:
    """Return the sentences with which a technique refuses networks, each once, with the networks.

    row: of the record, one technique's.
    """
    by_sentence: dict[str, list[str]] = {}
    for network, cell in row["networks"].items():
        if cell["state"] == "refused":
            by_sentence.setdefault(cell["says"], []).append(network)
    return [nodes.Text(f" {', '.join(networks)}: {sentence}.") for sentence, networks in by_sentence.items()]


def table(record: dict[str, Any], names: dict[str, str]) -> str:
    """Return the table as HTML.

    record: as :func:`lib.book.zoo.matrix.load` returns it, with at least one technique.
    names: id of a technique -> its name.
    """
    networks = list(next(iter(record.values()))["networks"])
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in networks)
    rows = []
    for id, row in record.items():
        cells = "".join(_cell(row["networks"].get(name)) for name in networks)
        rows.append(f'<tr><th scope="row"><a href="#{escape(id)}">{escape(names.get(id, id))}</a></th>{cells}</tr>')
    caption = "<caption>Each technique on each network</caption>"
    head = f'<thead><tr><th scope="col">technique</th>{head}</tr></thead>'
    body = f"<tbody>{''.join(rows)}</tbody>"
    box = '<div class="zoo" tabindex="0" role="region" aria-label="Each technique on each network">'
    return f"{box}<table>{caption}{head}{body}</table></div>"


def _cell(cell: dict[str, str] | None) -> str:
    if cell is None:
        return "<td></td>"
    sign, word = CELLS.get(cell["state"], ("✗", "fault"))
    hidden = f'<span class="visually-hidden">{word}</span>'
    return f'<td class="zoo-{word}" title="{escape(cell["says"])}"><span aria-hidden="true">{sign}</span>{hidden}</td>'


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.add_directive("zoo", Zoo)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
