"""The gate on what a page loads: a page that is too heavy causes a warning, which fails the build.

It counts the bytes on disk of the page and of everything that its HTML and its style sheets name: without compression
on the way, and without the fonts that MathJax loads for the formulas it draws.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

# Bytes. The ledger alone has 0.5 MB of text where it shows two profiles; MathJax alone has 1.16 MB.
LIMIT, LIMIT_WITH_FORMULAS = 1_200_000, 2_550_000
TAG = re.compile(r"<(?:link|script|img)\b[^>]*>")
ADDRESS = re.compile(r'\b(?:href|src)="([^"#]+)"')
LINK = re.compile(r'\brel="(?:stylesheet|preload|icon|shortcut icon)"')
URL = re.compile(r"(?:@import|url\()\s*['\"]?([^'\")\s;]+)")
OUTSIDE = re.compile(r"[a-z][a-z+.-]*:|//", re.IGNORECASE)
log = logging.getLogger(__name__)


def loaded(page: Path) -> set[Path]:
    """Return the files that a page loads, including itself.

    page: a file of HTML.
    """
    files = {page.resolve()}
    for tag in TAG.findall(page.read_text("utf-8")):
        if (address := ADDRESS.search(tag)) and (not tag.startswith("<link") or LINK.search(tag)):
            files |= _beside(page, address[1])
    sheets = [path for path in files if path.suffix == ".css"]
    for sheet in sheets:  # this list grows: a style sheet may import another
        for address in URL.findall(sheet.read_text("utf-8")):
            more = _beside(sheet, address) - files
            files |= more
            sheets += [path for path in more if path.suffix == ".css"]
    return files


def fault(page: Path) -> str | None:
    """Return one sentence for a page that loads more than it may, or None.

    page: a file of HTML.
    """
    size = sum(path.stat().st_size for path in loaded(page))
    formulas = 'class="math ' in page.read_text("utf-8")
    limit = LIMIT_WITH_FORMULAS if formulas else LIMIT
    if size <= limit:
        return None
    heaviest = max(loaded(page), key=lambda path: path.stat().st_size)
    kind = "with" if formulas else "without"
    return (
        f"{page.name} loads {size / 1e6:.2f} MB, and a page {kind} formulas may load {limit / 1e6:g} MB:"
        f" the heaviest is {heaviest.name} with {heaviest.stat().st_size / 1e6:.2f} MB"
    )


def weigh(app: Sphinx, failure: Exception | None) -> None:
    """Warn about every page that is too heavy, after a build that did not fail, when all its files are written."""
    if failure is None and app.builder.format == "html":
        for page in sorted(Path(app.outdir).rglob("*.html")):
            if "_static" not in page.relative_to(app.outdir).parts and (sentence := fault(page)):
                log.warning(sentence, type="survey", subtype="weight")


def _beside(file: Path, address: str) -> set[Path]:
    """The file of the book that an address in ``file`` names, or none."""
    path = (file.parent / re.sub(r"[?#].*", "", address)).resolve()
    return {path} if not OUTSIDE.match(address) and path.is_file() else set()


def setup(app: Sphinx) -> dict[str, bool]:
    """Add this extension; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.connect("build-finished", weigh, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
