"""The gates on the built pages and their sources. Each returns how much it checked, and a sentence for each fault."""

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag

from lib.book import claims, judging, ledger, prose, wording
from lib.book.pages import site

Gate = Callable[[Path], tuple[int, list[str]]]
EXTRA_PAGES = {"genindex.html", "search.html"}  # made by Sphinx; not in the table of contents
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
LOADING_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch"}
ROLE = re.compile(r"\{(?:glue|cite|mean|numref|ref|eq|doc|term|verdict|math)\b[^}\n]*\}|(?<!\w):[a-z]+(?::[a-z]+)?:`")
OUTSIDE_CSS = re.compile(r"(?:@import\s+|url\(\s*)['\"]?\s*((?:https?:)?//[^)'\"\s]+)")


def outside_requests(root: Path) -> tuple[int, list[str]]:
    """Nothing that a page or its style sheets load by themselves comes from the network."""
    count, wrong = 0, []
    for name, page in built_pages(root):
        for tag in page.find_all(LOADING):
            address = _attribute(tag, LOADING[tag.name])
            if address and not (tag.name == "link" and not LOADING_LINKS & set(_attribute(tag, "rel").split())):
                count += 1
                if urlsplit(address).netloc:
                    wrong.append(f"{name} loads {address} from the network")
    for sheet in sorted(site(root).rglob("*.css")):
        count += 1
        outside = OUTSIDE_CSS.findall(sheet.read_text("utf-8"))
        wrong += [f"{sheet.relative_to(site(root))} loads {address} from the network" for address in outside]
    return count, wrong


def alternative_texts(root: Path) -> tuple[int, list[str]]:
    """Every image has an alternative text that says what it shows, and is not a file name."""
    count, wrong = 0, []
    for name, page in built_pages(root):
        for image in page.find_all("img"):
            count += 1
            text = _attribute(image, "alt").strip()
            if not text or re.search(r"\.(svg|png|jpe?g|gif|webp)$|^[\w./-]*/[\w./-]*$", text):
                wrong.append(
                    f"{name}: the image {image.get('src')} has the alternative text {text!r}, which says nothing"
                )
    return count, wrong


def unresolved_roles(root: Path) -> tuple[int, list[str]]:
    """Every role is resolved: outside code, no page shows the text of one, such as ``{glue:text}``."""
    count, wrong = 0, []
    for name, page in built_pages(root):
        count += 1
        for text in page.find_all(string=ROLE):
            role = ROLE.search(text)
            if role and not text.find_parent(["code", "pre", "script", "style"]):
                wrong.append(f"{name} shows {role[0]} as text: it did not resolve")
    return count, wrong


def traces_of_the_machine(root: Path) -> tuple[int, list[str]]:
    """No page shows an object's address in memory, nor a folder of the machine that built it."""
    places = {str(root), f"{Path.home()}/", sys.prefix, f"{tempfile.gettempdir()}/"} - {"//"}
    folders = sorted(map(re.escape, places), key=len, reverse=True)  # the longest is the most specific
    trace = re.compile("|".join([r"\bat 0x[0-9a-f]{6,}", r"(?<![\w.])/(?:home|Users)/\w+", *folders]))
    count, wrong = 0, []
    for name, page in built_pages(root):
        count += 1
        wrong += [f"{name} shows {text!r}" for text in sorted(set(trace.findall(str(page))))]
    return count, wrong


def internal_links(root: Path) -> tuple[int, list[str]]:
    """Every link within the book leads to a page and to a place on it that exist."""
    built = dict(built_pages(root))
    marks = {name: {tag.get("id") or tag.get("name") for tag in page.find_all(_marked)} for name, page in built.items()}
    count, wrong = 0, []
    for name, page in built.items():
        for link in page.find_all("a", href=True):
            href = _attribute(link, "href")
            address, mark = urldefrag(href)
            if urlsplit(address).scheme or urlsplit(address).netloc:
                continue
            count += 1
            path = (site(root) / name).parent / unquote(urlsplit(address).path) if address else site(root) / name
            target = _within(root, path)
            if target is None or not path.exists():
                wrong.append(f"{name} links to {href}, which does not exist")
            elif mark and target in marks and unquote(mark) not in marks[target]:
                wrong.append(f"{name} links to {href}, and {target} has no place of that name")
    return count, wrong


def page_count(root: Path) -> tuple[int, list[str]]:
    """The pages are those of the table of contents, no fewer and no more."""
    expected = {f"{name}.html" for name in _entries(yaml.safe_load((root / "_toc.yml").read_text("utf-8")))}
    built = {name for name, _ in built_pages(root)} - EXTRA_PAGES
    wrong = [f"{name} is in _toc.yml but was not built" for name in sorted(expected - built)]
    return len(built), wrong + [f"{name} was built but is not in _toc.yml" for name in sorted(built - expected)]


def figures_shown(root: Path) -> tuple[int, list[str]]:
    """Every figure that a chapter's code names is on a page of the book."""
    marks = {tag.get("id") for _, page in built_pages(root) for tag in page.find_all(id=True)}
    count, wrong = 0, []
    for path in sorted((root / "chapters").glob("*.py")):
        named = sorted(set(re.findall(r"""["'](fig-[\w-]+)["']""", path.read_text("utf-8"))))
        count += len(named)
        wrong += [f"{path.name} names the figure {name!r}, which no page shows" for name in named if name not in marks]
    return count, wrong


def verdicts(root: Path, profile: str) -> tuple[dict[str, int], list[str]]:
    """Every verdict agrees with the results of this build and the committed ones of the published profile.

    root: the book's folder.
    profile: the profile of this build.
    Returns how many verdicts were judged in each, and one sentence for each failure; to judge none is a failure too.
    """
    try:
        held = ledger.load_claims(root)
    except ValueError as error:
        return {f"{profile} build": 0}, [str(error)]
    counts: dict[str, int] = {}
    wrong = []
    for name, built in ((profile, True), (claims.PUBLISHED, False)):
        place = f"{name} build" if built else f"{name} records"
        counts[place] = 0
        try:
            records = ledger.load_results(name, root, built=built)
            kept = ledger.load_results(name, root)
        except ValueError as error:
            wrong.append(str(error))
            continue
        if not records:
            command = f"make book PROFILE={name}" if built else f"make record PROFILE={name}"
            wrong.append(f"there are no results in the {place}: run `{command}`")
            continue
        for claim in held:
            if name not in claim.rules:
                continue
            try:
                judgment = judging.judge(claim, name, records)
            except ValueError as error:
                wrong.append(str(error))
                continue
            counts[place] += 1
            then = judging.judge(claim, name, kept) if built and claim.keys(name) <= kept.keys() else None
            if judging.flips(judgment, claim, then):
                wrong.append(f"{place}: {wording.contradiction(claim, judgment)}")
            if fault := judging.mixed(claim, judgment):
                wrong.append(f"{place}: {fault}")
    if not sum(counts.values()):
        wrong.append(f"no verdict was judged in {' or '.join(counts)}: the ledger needs rules for one of them")
    return counts, wrong


GATES: dict[str, Gate] = {
    "outside requests": outside_requests,
    "alternative texts": alternative_texts,
    "figures": figures_shown,
    "unresolved roles": unresolved_roles,
    "traces of the machine": traces_of_the_machine,
    "internal links": internal_links,
    "page count": page_count,
    "typed numbers": prose.typed_numbers,
}


def built_pages(root: Path) -> list[tuple[str, BeautifulSoup]]:
    """Return every built page of the book at ``root``: its path within the site, and its parsed text."""
    paths = [path for path in sorted(site(root).rglob("*.html")) if "_static" not in path.relative_to(site(root)).parts]
    return [(path.relative_to(site(root)).as_posix(), _parsed(path, path.stat().st_mtime_ns)) for path in paths]


@cache
def _parsed(path: Path, changed: int) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


def _attribute(tag: Tag, name: str) -> str:
    """The text of an attribute, a list joined by spaces; "" if it is missing."""
    value = tag.get(name) or ""
    return value if isinstance(value, str) else " ".join(value)


def _marked(tag: Tag) -> bool:
    return tag.has_attr("id") or (tag.name == "a" and tag.has_attr("name"))


def _within(root: Path, path: Path) -> str | None:
    home, target = site(root).resolve(), path.resolve()
    return target.relative_to(home).as_posix() if target.is_relative_to(home) else None


def _entries(toc: Any) -> Iterator[str]:
    if isinstance(toc, dict):
        yield from (str(toc[key]).removesuffix(".md").removesuffix(".py") for key in ("root", "file") if key in toc)
        yield from _entries(list(toc.values()))
    elif isinstance(toc, list):
        for part in toc:
            yield from _entries(part)
