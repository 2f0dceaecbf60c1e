"""The build reads a chapter's source and shows its run: the executed notebook with the source's present fingerprint.

Where there is none, the page shows the source without results, says so, and warns; warnings fail the build.
So the text and the run of a page cannot drift apart.
"""

import copy
import os
from pathlib import Path

import nbformat
from sphinx.application import Sphinx
from sphinx.util import logging

from lib import chapters

log = logging.getLogger(__name__)
building: Sphinx  # MyST-NB hands a reader the text only; the page's name is known to the application


def read(text: str) -> nbformat.NotebookNode:
    """The notebook to show for the chapter that is being read. Called by MyST-NB (``nb_custom_formats``)."""
    root, chapter = Path(building.srcdir), Path(building.env.docname).name
    profile = os.environ.get("SURVEY_PROFILE", "quick")
    found = chapters.executed(root, chapter, profile)
    if found is None:
        why = chapters.status(root, chapter, profile)["error"]
        log.warning("chapter %s: no run matches its source in the %s profile: %s", chapter, profile, why, type="survey")
        return unexecuted(copy.deepcopy(chapters.notebook(root, chapter)), why)
    return with_figures(found, chapter)


def unexecuted(notebook: nbformat.NotebookNode, why: str) -> nbformat.NotebookNode:
    """The chapter as it is written, with a note below its title that nothing of it was measured."""
    note = (
        f"````{{error}}\nThis chapter has not run, so its numbers and figures are missing.\n```text\n{why}\n```\n````"
    )
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note))
    return notebook


def with_figures(notebook: nbformat.NotebookNode, chapter: str) -> nbformat.NotebookNode:
    """Move each figure's alternative text, caption and name to where MyST-NB looks for them: the cell's metadata."""
    for cell in notebook.cells:
        marks = [output.get("metadata", {}).get("survey", {}).get("figure") for output in cell.get("outputs", [])]
        figures = [mark for mark in marks if mark]
        if len(figures) > 1:
            log.warning("chapter %s: a cell shows %d figures, and only one has a caption", chapter, len(figures))
        for figure in figures[:1]:
            words = {name: figure[name] for name in ("caption", "name") if figure.get(name)}
            cell.metadata["mystnb"] = {"image": {"alt": figure["alt"]}} | ({"figure": words} if words else {})
    return notebook


def setup(app: Sphinx) -> dict[str, bool]:
    global building
    building = app
    return {"parallel_read_safe": False, "parallel_write_safe": True}
