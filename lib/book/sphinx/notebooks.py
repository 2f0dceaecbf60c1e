"""Each chapter as a notebook to download, with the results of this build, beside its source."""

import ast
import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from sphinx.application import Sphinx

from lib.book import chapters, files, last_run
from lib.book.ledger import Records
from lib.book.sphinx import means
from lib.book.sphinx.page import PROFILE, load
from lib.book.sphinx.repository import known_address

GLUED = "application/papermill.record/text/plain"
GLUE = re.compile(r"\{glue:text\}`([^`]+)`")
MEAN = re.compile(r"\{mean\}`([^`]+)`")
FOLDER = "chapters/"
HOW = (
    "> To run this notebook, save it in the folder `chapters` of the book's repository{at}, and open it with the"
    " Python of the book's `.venv`, which finds `lib`: `.venv/bin/python -m jupyterlab chapters/{name}.ipynb`."
)


def to_run(
    notebook: nbformat.NotebookNode,
    name: str,
    address: str | None = None,
    results: Mapping[str, Records] | None = None,
) -> nbformat.NotebookNode:
    """Return a chapter for a reader's own JupyterLab: first how to run it, and measured numbers in its text.

    notebook: an executed chapter, or its source; it is not changed.
    name: the chapter's name.
    address: the repository's address, if known.
    results: {profile: measurements}, for the means in the text; default none.
    """

    def mean(role: re.Match[str]) -> str:
        try:
            return f"**{means.mean(role[1], results or {})}**"
        except ValueError:  # not measured
            return role[0]

    made = copy.deepcopy(notebook)
    made.metadata = {key: value for key, value in made.metadata.items() if key in ("kernelspec", "language_info")}
    shown = glued(made)
    for cell in made.cells:
        if cell.cell_type == "markdown":
            cell.source = GLUE.sub(lambda role: f"**{shown[role[1]]}**" if role[1] in shown else role[0], cell.source)
            cell.source = MEAN.sub(mean, cell.source)
    made.cells.insert(0, nbformat.v4.new_markdown_cell(HOW.format(at=f" ({address})" if address else "", name=name)))
    made.cells[0].id = "how-to-run"  # a random one would differ from build to build
    return made


def glued(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Return what an executed notebook shows in its text, as {key: text}."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    records = (output for output in outputs if GLUED in output.get("data", {}))
    return {output.metadata["scrapbook"]["name"]: ast.literal_eval(output.data[GLUED]) for output in records}


def offer(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Add the notebook to the downloads of a chapter's page."""
    if not is_chapter(app, pagename):
        return
    for group in context.get("header_buttons", []):
        if group.get("label") == "download-buttons":
            button = {"type": "link", "text": ".ipynb", "icon": "fas fa-code", "label": "download-notebook-button"}
            button |= {"url": context["pathto"](f"_sources/{pagename}.ipynb", 1), "tooltip": "Download notebook"}
            group["buttons"].insert(0, button)


def write(app: Sphinx, failure: Exception | None) -> None:
    """Write the notebooks beside the sources, after a build that did not fail."""
    if failure is not None or app.builder.format != "html":
        return
    root, profile = Path(app.srcdir), PROFILE
    _, results = load(root, ())  # read once more: here no page depends on it
    for page in sorted(name for name in app.env.found_docs if is_chapter(app, name)):
        name = page.removeprefix(FOLDER)
        notebook = last_run.executed(root, name, profile) or chapters.notebook(root, name)
        path = Path(app.outdir) / "_sources" / f"{page}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, nbformat.writes(to_run(notebook, name, known_address(app.config), results)))


def is_chapter(app: Sphinx, page: str) -> bool:
    """Return whether a page is a chapter: a notebook in percent format."""
    return page.startswith(FOLDER) and (Path(app.srcdir) / f"{page}.py").is_file()


def setup(app: Sphinx) -> dict[str, bool]:
    """Add this extension; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.connect("html-page-context", offer, priority=600)  # after the theme has made its buttons
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
