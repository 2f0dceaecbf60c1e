"""The book as one PDF: Chromium prints every built page, and the prints are joined, with an outline and inner links."""

import functools
import http.server
import io
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from bs4 import BeautifulSoup

from lib.book import pages

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FOOTER = (
    '<p style="width: 100%; text-align: center; font: 8px sans-serif; color: #666"><span class="title"></span>,'
    ' page <span class="pageNumber"></span></p>'
)
SHEET: dict[str, Any] = {
    "format": "A4",
    "scale": 0.8,  # of the size on a screen
    "margin": {"top": "16mm", "bottom": "18mm", "left": "20mm", "right": "20mm"},
    "display_header_footer": True,
    "header_template": "<p></p>",
    "footer_template": FOOTER,
}


def command(root: Path) -> int:
    """Write the PDF and say where it is; return 0, the exit status.

    root: the book's folder.
    Raises ValueError as :func:`write` does.
    """
    print("Printing the pages: this takes some minutes", flush=True)
    print(f"The book as a PDF is {write(root)}")
    return 0


def write(root: Path) -> Path:
    """Write the pages that were built last as one PDF, in the order of the table of contents.

    A link to a page of the book jumps to the first sheet of its print; other links stay as they are.

    root: the book's folder.

    Returns the file, ``book.pdf`` beside the pages. Raises ValueError if there are no pages, or no Chromium.
    """
    # Imported here so that all other commands run without them.
    from playwright.sync_api import sync_playwright
    from pypdf import PdfReader, PdfWriter

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ValueError(f"printing needs a browser, and none was found: install one of {', '.join(BROWSERS)}")
    parts, folder = contents(root), pages.site(root)
    missing = [name for names in parts.values() for name in names if not (folder / f"{name}.html").exists()]
    if missing:
        raise ValueError(f"there is no page {folder / missing[0]}.html: build the book first, with make book")
    writer = PdfWriter()
    begins: dict[str, int] = {}
    with _served(folder) as address, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page()
        for part, names in parts.items():
            above: Any = None
            for name in names:
                first = begins[f"{address}/{name}.html"] = len(writer.pages)
                page.goto(f"{address}/{name}.html", wait_until="networkidle")
                writer.append(PdfReader(io.BytesIO(page.pdf(**SHEET))), import_outline=False)
                if part and above is None:
                    above = writer.add_outline_item(title=part, page_number=first, is_open=False)
                writer.add_outline_item(title=_title(folder / f"{name}.html"), page_number=first, parent=above)
        chromium.close()
    _link(writer, begins)
    writer.add_metadata({"/Title": _title(folder / f"{parts[''][0]}.html")})
    writer.compress_identical_objects()  # each print brings its own fonts
    written = folder / "book.pdf"
    new = written.with_suffix(".new")
    writer.write(new)
    new.rename(written)
    return written


def contents(root: Path) -> dict[str, list[str]]:
    """Return the pages of the book by part, in the order of ``_toc.yml``; the first page is the part without a name."""
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    parts = {part["caption"]: [chapter["file"] for chapter in part["chapters"]] for part in toc["parts"]}
    return {"": [toc["root"]], **parts}


def _title(page: Path) -> str:
    heading = BeautifulSoup(page.read_text("utf-8"), "html.parser").find("h1")
    return heading.get_text().rstrip("#").strip() if heading else page.stem


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port and yield its address: scripts cannot load data from ``file:`` addresses."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _link(writer: Any, begins: dict[str, int]) -> None:
    """Make links between pages jump to sheets of the file: the server that they name is gone."""
    from pypdf.generic import ArrayObject, DictionaryObject, NameObject

    for sheet in writer.pages:
        for held in sheet.get("/Annots", ()):
            note = held.get_object()
            address = re.split("[?#]", str(note.get("/A", {}).get("/URI", "")))[0]
            if address in begins:
                target = ArrayObject([writer.pages[begins[address]].indirect_reference, NameObject("/Fit")])
                leads = {NameObject("/S"): NameObject("/GoTo"), NameObject("/D"): target}
                note[NameObject("/A")] = DictionaryObject(leads)
