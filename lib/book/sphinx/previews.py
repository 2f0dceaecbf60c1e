"""Previews of the places that a page links to: a term, a source, a figure, a section, a claim.

After a build, each page gets a small JSON with the texts of these places, and ``preview.js`` in ``_static`` shows them
beside their links. So nothing more is loaded, except figures of other pages of this book.
"""

import json
import posixpath
import re
import textwrap
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urldefrag

from bs4 import BeautifulSoup, Tag
from sphinx.application import Sphinx

LONGEST = 320  # characters of a text
REACH = 8000  # characters from the start of a place, within which lies all that is shown of it
LINK = re.compile(r"<a\b[^>]*>")
ARTICLE = re.compile(r'<article class="bd-article".*</article>', re.DOTALL)
DATA = re.compile(r'<script type="application/json" id="previews">.*?</script>\n?', re.DOTALL)
Preview = dict[str, str]


def addresses(html: str) -> list[str]:
    """Return the places in the book that a page's article links to, each once; links to whole pages are left out.

    html: the page.
    """
    article = ARTICLE.search(html)
    found: dict[str, None] = {}
    for tag in LINK.findall(article[0]) if article else []:
        href = re.search(r'\bhref="([^":]*#[^"]+)"', tag)
        kind = re.search(r'\bclass="([^"]*)"', tag)
        if href and kind and {"reference", "internal"} <= set(kind[1].split()):
            found[href[1]] = None
    return list(found)


@lru_cache(maxsize=4096)
def preview(html: str, id: str) -> Preview | None:
    """Return what to show of a place: ``title``, ``text``, and for a figure ``image`` and ``alt``; None if nothing.

    html: the page with the place.
    id: the id of the place, which a link has after ``#``.

    >>> preview('<dl class="glossary"><dt id="term-mask">mask</dt><dd><p>Zeros and ones.</p></dd></dl>', "term-mask")
    {'title': 'mask', 'text': 'Zeros and ones.'}
    """
    begin = re.search(rf'<(?P<tag>\w+)\b[^<>]*\bid="{re.escape(id)}"', html)
    if begin is None:
        return None
    part = BeautifulSoup(html[begin.start() : begin.start() + REACH], "html.parser")
    place = part.find(True)
    if not isinstance(place, Tag):
        return None
    shown = next((show(part, place) for kind, show in KINDS.items() if place.css.match(kind)), {})
    about = {name: text for name, text in shown.items() if text}
    return about if about.keys() - {"title"} else None  # a heading alone says no more than the link


def previews(pages: Mapping[str, str], name: str) -> dict[str, Preview]:
    """Return what a page can show: address -> preview, for each address in its article that leads to a place.

    pages: path within the book -> HTML.
    name: the path of the page.
    """
    shown = {}
    for address in addresses(pages[name]):
        path, id = urldefrag(address)
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(path))) if path else name
        if target in pages and (found := preview(pages[target], unquote(id))):
            if "image" in found:
                image = posixpath.join(posixpath.dirname(target), found["image"])
                found = found | {"image": posixpath.relpath(image, posixpath.dirname(name) or ".")}
            shown[address] = found
    return shown


def with_previews(html: str, shown: Mapping[str, Preview]) -> str:
    """Return a page with its previews as JSON at its end; those of an earlier build are replaced.

    html: the page.
    shown: address -> preview; without any, the page gets nothing.
    """
    html = DATA.sub("", html)
    if not shown:
        return html
    data = json.dumps(shown, ensure_ascii=False).replace("<", "\\u003c")  # no text can end the script
    before, end, after = html.rpartition("</body>")
    return f'{before}<script type="application/json" id="previews">{data}</script>\n{end}{after}'


def write(app: Sphinx, failure: Exception | None) -> None:
    """Give each page its previews, after a build that did not fail."""
    if failure is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    paths = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.relative_to(site).parts]
    pages = {path.relative_to(site).as_posix(): path.read_text("utf-8") for path in paths}
    for name, html in pages.items():
        if (page := with_previews(html, previews(pages, name))) != html:
            (site / name).write_text(page, "utf-8")


def _term(part: Tag, place: Tag) -> Preview:
    meaning = part.find("dd")
    first = meaning.find("p") if isinstance(meaning, Tag) else None
    return {"title": _text(place), "text": _short(first or meaning)}


def _source(part: Tag, place: Tag) -> Preview:
    return {"text": _text(place.find("p"))}


def _figure(part: Tag, place: Tag) -> Preview:
    image, number = place.find("img"), place.select_one(".caption-number")
    about = {"image": str(image["src"]), "alt": str(image.get("alt", ""))} if isinstance(image, Tag) else {}
    return {"title": _text(number), "text": _short(place.select_one(".caption-text")), **about}


def _section(part: Tag, place: Tag) -> Preview:
    """A heading and the first paragraph below it without a formula, since other pages may not draw formulas."""
    heading = part.find(re.compile("h[1-6]"))
    if not isinstance(heading, Tag):
        return {}
    below = [tag for tag in heading.find_next_siblings("p") if tag.select_one(".math") is None]
    return {"title": _text(heading), "text": _short(below[0] if below else None)}


def _claim(part: Tag, place: Tag) -> Preview:
    says = place.select_one("p:not(.claim-head)")
    return {"title": _text(place.select_one(".claim-head")), "text": _short(says)}


KINDS: dict[str, Callable[[Tag, Tag], Preview]] = {  # what a place is -> how it is shown; the first that fits
    "dt": _term,
    "div.citation": _source,
    "figure": _figure,
    "div.claim": _claim,
    "section, span": _section,
}


def _text(tag: object) -> str:
    """The text of a tag in one line, without its permalink signs."""
    if not isinstance(tag, Tag):
        return ""
    for sign in tag.select("a.headerlink"):
        sign.decompose()
    return " ".join(tag.get_text().split())


def _short(tag: object) -> str:
    return textwrap.shorten(_text(tag), LONGEST, placeholder=" …")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add this extension; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
