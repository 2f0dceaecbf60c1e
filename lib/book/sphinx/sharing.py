"""What sites show for a shared link: the page's title, its first sentences, and the book's card."""

import html
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from lib.book.sphinx import card

LONGEST = 280  # characters of a description
CARD = "_static/card.png"
CARD_SHOWS = "The title of the book, above a matrix of weights that is dense, then pruned, then left with three values"


def description(doctree: nodes.Node) -> str:
    """Return the first sentences of a page, as many as fit, or "" where it has no paragraph.

    doctree: the page.
    """
    paragraphs = (part for part in doctree.findall(nodes.paragraph) if isinstance(part.parent, nodes.section))
    text = " ".join(next((part.astext() for part in paragraphs), "").split())
    if len(text) <= LONGEST:
        return text
    ends = [found.end() for found in re.finditer(r"[.?!](?= )", text[:LONGEST])]
    return text[: ends[-1]] if ends else text[:LONGEST].rsplit(" ", 1)[0] + " …"


def add_tags(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Add the page's description, and its title and picture for sites that show a link to it.

    The picture has its full address if ``html: baseurl`` in ``_config.yml`` says where the pages are published.
    """
    if doctree is None:
        return
    about = description(doctree)
    base = app.config.html_baseurl
    picture = f"{base.rstrip('/')}/{CARD}" if base else context["pathto"](CARD, 1)
    title = re.sub(r"<[^>]+>", "", context.get("title", ""))
    named = {"description": about, "author": app.config.author, "twitter:card": "summary_large_image"}
    shared = {
        "og:type": "website" if pagename == app.config.root_doc else "article",
        "og:site_name": app.config.html_title,
        "og:title": html.unescape(title),
        "og:description": about,
        "og:image": picture,
        "og:image:alt": CARD_SHOWS,
    }
    tags = [f'<meta name="{name}" content="{html.escape(text)}" />' for name, text in named.items() if text]
    tags += [f'<meta property="{name}" content="{html.escape(text)}" />' for name, text in shared.items() if text]
    context["metatags"] = context.get("metatags", "") + "\n    " + "\n    ".join(tags)


def draw_card(app: Sphinx, failure: Exception | None) -> None:
    """Draw the picture of the book, after a build that did not fail."""
    if failure is None and app.builder.format == "html":
        card.draw(Path(app.outdir) / CARD, app.config.html_title)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add this extension; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.connect("html-page-context", add_tags, priority=600)  # after theme.py took a viewport out
    app.connect("build-finished", draw_card)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
