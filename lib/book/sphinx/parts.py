"""Parts of pages, as Docutils nodes: folded lines, rows of numbers, badges, and links to claims and chapters."""

import re
from collections.abc import Iterable
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

SECTION = "section-of-page"  # the type of a link that names a page and a heading


class Fold(nodes.General, nodes.Element):
    """One line that opens: a summary, and what it hides until a reader asks for it."""


class Summary(nodes.TextElement):
    """The line of a fold that is always shown."""


def fold(summary: Iterable[nodes.Node], children: Iterable[nodes.Node]) -> Fold:
    """Return a folded line.

    summary: the text of the line, as inline nodes.
    children: what a click on the line shows.
    """
    return Fold("", Summary("", "", *summary), *children, classes=["fold"])


def tiles(entries: Iterable[tuple[str, str, str | None]]) -> list[nodes.Node]:
    """Return a row of numbers with their names below.

    entries: for each, the number, its name, and the address it links to, or None.
    """
    row = nodes.bullet_list(classes=["tiles"])
    for number, name, address in entries:
        text = [nodes.strong(text=number), nodes.Text(" "), nodes.inline(text=name)]
        linked = [nodes.reference("", "", *text, refuri=address, internal=True)] if address else text
        row += nodes.list_item("", nodes.paragraph("", "", *linked))
    return [row]


def label(verdict: str, text: nodes.Node) -> nodes.inline:
    """Return a text styled as a verdict."""
    return nodes.inline("", "", text, classes=["verdict", f"verdict-{slug(verdict)}"])


def link(docname: str, id: str, text: str) -> addnodes.pending_xref:
    """Return a link to a claim in the ledger; a missing ledger page is a warning.

    docname: the page that links.
    id: the claim's id.
    text: what the link shows.
    """
    about = {"refdomain": "std", "reftype": "ref", "reftarget": anchor(id).lower(), "refdoc": docname}
    return addnodes.pending_xref("", nodes.inline(text, text), refexplicit=True, refwarn=True, **about)


def chapter_link(docname: str, chapter: str) -> addnodes.pending_xref:
    """Return a link from the page ``docname`` to a chapter, with the chapter's title."""
    about = {"refdomain": "std", "reftype": "doc", "reftarget": f"/chapters/{chapter}", "refdoc": docname}
    return addnodes.pending_xref(
        "", nodes.inline("", chapter, classes=["doc"]), refexplicit=False, refwarn=True, **about
    )


def section_link(docname: str, chapter: str, heading: str, within: str) -> addnodes.pending_xref:
    """Return a link from the page ``docname`` to a section of a chapter; a missing section is a warning.

    docname: the page that links.
    chapter: the chapter's name.
    heading: the section's heading as its source writes it; the link shows it.
    within: the chapter in words, which the link shows in parentheses.
    """
    about = {"refdomain": "", "reftype": SECTION, "reftarget": f"chapters/{chapter}#{heading}", "refdoc": docname}
    shown = f"{re.sub(r'[`*$]', '', heading)} ({within})"
    return addnodes.pending_xref("", nodes.inline(shown, shown), refexplicit=True, refwarn=True, **about)


def find_section(app: Sphinx, env: Any, node: addnodes.pending_xref, shown: nodes.Element) -> nodes.reference | None:
    """Return the reference of a link to a section of a page, from the page's table of contents; Sphinx calls it."""
    if node["reftype"] != SECTION:
        return None
    page, _, heading = node["reftarget"].partition("#")
    for entry in env.tocs[page].findall(nodes.reference) if page in env.tocs else []:
        if _letters(entry.astext()) == _letters(heading):
            address = app.builder.get_relative_uri(node["refdoc"], page) + entry["anchorname"]
            return nodes.reference("", "", shown, refuri=address, internal=True)
    return None


def _letters(heading: str) -> str:
    """The letters and digits of a heading: its source and its page write marks and quotes differently."""
    return re.sub(r"[\W_]+", "", heading).lower()


def anchor(id: str) -> str:
    """Return the id of a claim's place in the ledger."""
    return f"claim-{id}"


def slug(verdict: str) -> str:
    """Return a verdict as part of a CSS class name."""
    return verdict.replace(" ", "-")


def _open(tag: str) -> Any:
    return lambda writer, node: writer.body.append(writer.starttag(node, tag))


def _close(tag: str) -> Any:
    return lambda writer, node: writer.body.append(f"</{tag}>\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """Say how folds become HTML; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.connect("missing-reference", find_section)
    app.add_node(Fold, html=(_open("details"), _close("details")))
    app.add_node(Summary, html=(_open("summary"), _close("summary")))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
