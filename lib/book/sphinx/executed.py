"""The build reads a chapter's source and shows its run: the executed notebook with the source's present fingerprint.

Where there is none, the page shows the source without results, says so, and warns; warnings fail the build.
So the text and the run of a page cannot drift apart.
"""

import ast
import copy
import os
from pathlib import Path

import nbformat
from sphinx.application import Sphinx
from sphinx.util import logging

from lib.book import chapters, last_run

CODE = "```python\n"  # how lib.figures shows code
log = logging.getLogger(__name__)
building: Sphinx  # MyST-NB hands a reader the text only; the page's name is known to the application


def read(text: str) -> nbformat.NotebookNode:
    """Return the notebook to show for the chapter that is being read. MyST-NB calls it (``nb_custom_formats``).

    text: the chapter's source; its name is known to the application.
    """
    root, chapter = Path(building.srcdir), Path(building.env.docname).name
    profile = os.environ.get("SURVEY_PROFILE", "quick")
    done = last_run.executed(root, chapter, profile)
    if done is None:
        why = last_run.status(root, chapter, profile)["error"] or "it has no run"
        log.warning("chapter %s: no run matches its source in the %s profile: %s", chapter, profile, why, type="survey")
        return unexecuted(copy.deepcopy(chapters.notebook(root, chapter)), why)
    return with_short_code(with_figures(done))


def unexecuted(notebook: nbformat.NotebookNode, why: str) -> nbformat.NotebookNode:
    """Add a note below the chapter's title that nothing of it was measured, and return the notebook.

    notebook: the chapter's source; it is changed.
    why: why there is no run.
    """
    note = (
        f"````{{error}}\nThis chapter has not run, so its numbers and figures are missing.\n```text\n{why}\n```\n````"
    )
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note))
    return notebook


def with_figures(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Move each figure's alternative text, caption and name to where MyST-NB looks for them: the cell's metadata.

    There they hold for all that the cell shows, so whatever comes before or after a figure gets a cell of its own.

    notebook: an executed chapter; it is changed.
    Returns the notebook.
    """
    cells = []
    for cell in notebook.cells:
        cells += [cell]
        shown = cell.get("outputs", [])
        if not any(map(_figure, shown)):
            continue
        cell.outputs, before = [], None
        for output in shown:
            figure = _figure(output)
            if cells[-1].outputs and (figure or before):
                tags = sorted({*cell.metadata.get("tags", []), "remove-input"})
                cells += [nbformat.v4.new_code_cell("# what it shows next", metadata={"tags": tags})]  # empty: skipped
            if figure:
                words = {name: figure[name] for name in ("caption", "name") if figure.get(name)}
                cells[-1].metadata["mystnb"] = {"image": {"alt": figure["alt"]}} | ({"figure": words} if words else {})
            cells[-1].outputs.append(output)
            before = figure
    notebook.cells = cells
    return notebook


def with_short_code(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave of the docstrings of shown code their first paragraph: the page itself explains the rest.

    notebook: an executed chapter; it is changed.
    Returns the notebook.
    """
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        text = output.get("data", {}).get("text/markdown", "")
        if text.startswith(CODE) and text.endswith("\n```"):
            output["data"]["text/markdown"] = f"{CODE}{shortened(text[len(CODE) : -4])}\n```"
    return notebook


def shortened(code: str) -> str:
    """Return Python code with the first paragraph of each docstring; code that does not parse is left as it is."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return code
    lines, cuts = code.splitlines(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            first, last = node.body[0].lineno - 1, (node.body[0].end_lineno or 0) - 1
            blank = next((i for i in range(first, last) if not lines[i].strip()), None)
            if blank is not None and lines[last].strip() == '"""':
                cuts.append((blank, last))
    for blank, last in sorted(cuts, reverse=True):
        lines[blank - 1] += '"""'
        del lines[blank : last + 1]
    return "\n".join(lines)


def _figure(output: nbformat.NotebookNode) -> dict[str, str] | None:
    return output.get("metadata", {}).get("survey", {}).get("figure")


def setup(app: Sphinx) -> dict[str, bool]:
    """Keep the application for :func:`read`; Sphinx calls it. Returns whether pages may be built at once."""
    global building
    building = app
    return {"parallel_read_safe": False, "parallel_write_safe": True}
