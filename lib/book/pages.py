"""Build all pages, preview one, or serve them on this machine."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from filelock import FileLock

from lib.book import processes, run

JUPYTER_BOOK = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
# References to other pages, which a preview does not build: only the build of the whole book can check them.
OF_OTHER_PAGES = ["ref.ref", "ref.doc", "ref.numref", "ref.any", "ref.term", "myst.xref_missing", "mystnb.glue_ref"]
EXPLAINING = re.compile(r"\{(?:bibliography|glossary)\}")  # all pages refer to these, so a preview has them


def site(root: Path) -> Path:
    """Return where the pages of the book at ``root`` are."""
    return root / "_build" / "html"


def build(root: Path, profile: str) -> list[str]:
    """Build all pages from scratch, so that no earlier build hides what is missing now. Returns the warnings.

    root: the book's folder.
    profile: the profile whose runs the pages show.
    """
    for stale in (site(root), root / "_build" / ".doctrees", root / "_build" / "jupyter_execute"):
        shutil.rmtree(stale, ignore_errors=True)
    print(f"Building the pages in {site(root)}", flush=True)
    return _jupyter_book(root, profile, "html", "-W", "-n", "--keep-going")


def preview(root: Path, chapter: str, profile: str) -> list[str]:
    """Build one chapter's page from its last run, with the first page, glossary and bibliography. Returns its warnings.

    The page is ``_build/page/chapters/<chapter>.html``. References to pages that are not built with it lead nowhere,
    and measurements of other chapters come from the committed records if this build lacks them.

    root: the book's folder.
    chapter: a chapter's name.
    profile: the profile whose run the page shows.
    """
    page, work = preview_page(root, chapter), root / "_build" / "page.new"
    with FileLock(root / "_build" / "page.lock"):  # a second preview waits for the first
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(root / "_build" / "page", ignore_errors=True)
        work.mkdir(parents=True)
        toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
        cites = sorted(path.stem for path in root.glob("*.md") if EXPLAINING.search(path.read_text("utf-8")))
        shown = [f"chapters/{chapter}", *(name for name in cites if name != toc["root"])]
        (work / "_toc.yml").write_text(
            yaml.safe_dump({"format": "jb-book", "root": toc["root"], "chapters": [{"file": name} for name in shown]})
        )
        config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
        config["sphinx"]["config"]["suppress_warnings"] = OF_OTHER_PAGES
        (work / "_config.yml").write_text(yaml.safe_dump(config))
        places = ["--toc", f"{work / '_toc.yml'}", "--config", f"{work / '_config.yml'}", "--path-output", f"{work}"]
        warnings = _jupyter_book(root, profile, "page", *places, SURVEY_PREVIEW="1")
        if (built := work / "_build" / "html").exists():
            built.rename(root / "_build" / "page")
        shutil.rmtree(work)
    if not page.exists():
        return warnings or [f"pages: {page} was not built, and _build/logs/page.log does not say why"]
    others = tuple(f"pages: {name}.md:" for name in (toc["root"], *cites))  # their faults are not the chapter's
    return [warning for warning in warnings if not warning.startswith(others)]


def preview_page(root: Path, chapter: str) -> Path:
    """Return where :func:`preview` leaves a chapter's page."""
    return root / "_build" / "page" / "chapters" / f"{chapter}.html"


def serve(root: Path, port: int) -> int:
    """Show the built pages on 127.0.0.1 until Ctrl-C; return 0, the exit status.

    root: the book's folder.
    port: the first port to try, up to 65515; the first free one of the twenty from there is used.
    Raises ValueError if there are no pages, or no port is free.
    """
    if not (site(root) / "index.html").exists():
        raise ValueError(f"there is no page at {site(root) / 'index.html'}: build the book first, with make book")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site(root)))
    for candidate in range(port, port + 20):
        try:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", candidate), handler)
        except OSError:
            continue
        print(f"The book is at http://127.0.0.1:{candidate}/  (Ctrl-C stops it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    raise ValueError(f"no port from {port} to {port + 19} is free on 127.0.0.1: name another with --port")


def _jupyter_book(root: Path, profile: str, name: str, *options: str, **variables: str) -> list[str]:
    """Let Jupyter Book build pages, with its output in ``_build/logs/<name>.log``; return its warnings."""
    log = root / "_build" / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(root), *options, "--all", "-q"]
    environment = os.environ | {"SURVEY_PROFILE": profile, "NO_COLOR": "1", "PYTHONPATH": run.search_path(root)}
    environment |= variables
    with log.open("w") as noise:
        ended = processes.wait(subprocess.Popen(command, stdout=noise, stderr=noise, cwd=root, env=environment))
    text = re.sub(r"\x1b\[[\d;]*m", "", log.read_text("utf-8"))
    warnings = _warnings(root, text, log.name)
    if ended and not warnings:
        cause = re.search(r"^\w+ error:\n(.+)", text, re.MULTILINE)  # Sphinx's own sentence, above a long traceback
        warnings = [f"the build ended with status {ended}: {cause[1] if cause else processes.last_lines(log)}"]
    return [f"pages: {warning}" for warning in warnings]


def _warnings(root: Path, text: str, log: str) -> list[str]:
    """The build's warnings, once each, at most five for one file: a chapter without a run would cause dozens."""
    text = text.replace(f"{root}{os.sep}", "")
    text = re.sub(r"(\.py):(\d+)(\d{4}):", lambda at: f"{at[1]}, cell {at[2]}, line {int(at[3])}:", text)
    shown: dict[str, list[str]] = {}
    for line in dict.fromkeys(line.strip() for line in text.splitlines() if "WARNING:" in line or "ERROR:" in line):
        shown.setdefault(re.split("[:,]", line)[0], []).append(line)
    more = [f"{file}: {len(lines) - 5} more, in _build/logs/{log}" for file, lines in shown.items() if len(lines) > 5]
    return [line for lines in shown.values() for line in lines[:5]] + more
