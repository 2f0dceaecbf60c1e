"""Show a chapter's source with the outputs of its run: the executed notebook that has the source's fingerprint.

If there is none, the page shows the source without results, says so, and warns; warnings fail the build.
So the text of a page and its run cannot drift apart.
"""

import ast
import copy
import io
import re
import subprocess
import sys
import tempfile
import textwrap
import tokenize
from pathlib import Path

import nbformat
from sphinx.application import Sphinx
from sphinx.util import logging

from lib.book import chapters, last_run
from lib.book.sphinx import theme

CODE = re.compile(r"^```python\n(.*?)\n```$", re.MULTILINE | re.DOTALL)  # how lib.figures shows code
COLUMNS = "88"  # characters that fit in a line of code on a page, beside both sidebars at 1280 pixels
BELOW = re.compile(r"^(?:```\{claims\}|## )", re.MULTILINE)  # where a page shows its chapter's figure
log = logging.getLogger(__name__)
building: Sphinx  # MyST-NB passes only the text to a reader; the application knows the page's name


def read(text: str) -> nbformat.NotebookNode:
    """Return the notebook to show for the chapter that is being read. MyST-NB calls it (``nb_custom_formats``).

    text: the chapter's source; the application knows its name.
    """
    root, chapter = Path(building.srcdir), Path(building.env.docname).name
    profile = theme.profile()
    done = last_run.executed(root, chapter, profile)
    if done is None:
        why = last_run.status(root, chapter, profile)["error"] or "it has no run"
        log.warning("chapter %s: no run matches its source in the %s profile: %s", chapter, profile, why, type="survey")
        return unexecuted(copy.deepcopy(chapters.notebook(root, chapter)), why)
    return with_solutions(with_narrow_code(with_figures(with_lead(without_echo(done)))))


def unexecuted(notebook: nbformat.NotebookNode, why: str) -> nbformat.NotebookNode:
    """Add a note below the chapter's title that it has not run, and return the notebook.

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

    There they apply to everything the cell shows, so outputs before and after a figure get cells of their own.

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


def without_echo(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop a notebook's own display of glued values: on a page, the sentence that glues them shows them.

    notebook: an executed chapter; it is changed.
    Returns the notebook.
    """
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "scrapbook" in output.get("metadata", {}):
            output["data"].pop("text/plain", None)
    return notebook


def with_lead(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Show the chapter's lead figure below its opening as well; where it is drawn, it stays, without its number.

    notebook: an executed chapter; it is changed.
    Returns the notebook. Raises ValueError for several such figures.
    """
    leads = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if (_figure(output) or {}).get("lead")
    ]
    if len(leads) > 1:
        raise ValueError(f"a page shows one figure first, but {len(leads)} are marked as lead=True")
    if not leads:
        return notebook
    opening = notebook.cells[0]
    cut = BELOW.search(opening.source)
    end = cut.start() if cut else len(opening.source)
    shown = nbformat.v4.new_code_cell("# the chapter's figure", metadata={"tags": ["remove-input"]})
    shown.outputs = [copy.deepcopy(leads[0])]
    rest = [nbformat.v4.new_markdown_cell(opening.source[end:])] if cut else []
    opening.source = opening.source[:end]
    notebook.cells[1:1] = [shown, *rest]
    leads[0].metadata["survey"]["figure"] = {"alt": shown.outputs[0].metadata["survey"]["figure"]["alt"]}
    return notebook


def with_narrow_code(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Break the lines of shown ``lib`` code that are too long for a page.

    notebook: an executed chapter; it is changed.
    Returns the notebook.
    """
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if CODE.search(output.get("data", {}).get("text/markdown", ""))]
    codes = [found[1] for data in shown for found in CODE.finditer(data["text/markdown"])]
    broken = dict(zip(codes, narrow(codes), strict=True))
    for data in shown:
        data["text/markdown"] = CODE.sub(lambda found: f"```python\n{broken[found[1]]}\n```", data["text/markdown"])
    return notebook


def narrow(codes: list[str]) -> list[str]:
    """Return pieces of Python code in lines of 88 characters; code that does not parse is left as it is.

    Ruff breaks the code. A comment that does not fit first moves to its own lines above the code, since Ruff would
    otherwise break the code to make room for it.

    codes: any number; one call of Ruff breaks them all.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{i}.py") for i in range(len(codes))]
        for path, code in zip(paths, codes, strict=True):
            path.write_text(_with_narrow_comments(code), encoding="utf-8")
        command = [sys.executable, "-m", "ruff", "format", "--isolated", "--no-cache", "--line-length", COLUMNS, folder]
        subprocess.run(command, capture_output=True)
        return [path.read_text(encoding="utf-8").rstrip() for path in paths]


def _with_narrow_comments(code: str) -> str:
    lines = code.splitlines()
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
        compile(code, "shown", "exec", flags=ast.PyCF_ONLY_AST)
    except (tokenize.TokenError, SyntaxError):
        return code
    for token in reversed([token for token in tokens if token.type == tokenize.COMMENT]):
        row, column = token.start
        line = lines[row - 1]
        if len(line) > int(COLUMNS):
            indent = " " * (len(line) - len(line.lstrip()))
            words = textwrap.wrap(token.string.removeprefix("# "), int(COLUMNS) - len(indent) - 2)
            own = [line[:column].rstrip()] if line[:column].strip() else []
            lines[row - 1 : row] = [f"{indent}# {part}" for part in words] + own
    return "\n".join(lines)


def with_solutions(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Label the folded cells below the heading Exercises as Solution 1, Solution 2 ...

    A cell that :func:`with_figures` has split is one solution.

    notebook: an executed chapter; it is changed.
    Returns the notebook.
    """
    number = None
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (headings := re.findall(r"^## (.*)", cell.source, re.MULTILINE)):
            number = 0 if headings[-1].startswith("Exercises") else None
        tags = cell.metadata.get("tags", [])
        if number is not None and "hide-cell" in tags:
            number += "remove-input" not in tags
            prompts = {"code_prompt_show": f"Solution {number}", "code_prompt_hide": f"Hide solution {number}"}
            cell.metadata["mystnb"] = {**cell.metadata.get("mystnb", {}), **prompts}
    return notebook


def _figure(output: nbformat.NotebookNode) -> dict[str, str] | None:
    return output.get("metadata", {}).get("survey", {}).get("figure")


def setup(app: Sphinx) -> dict[str, bool]:
    """Keep the application for :func:`read`; Sphinx calls it. Returns whether pages may be built in parallel."""
    global building
    building = app
    return {"parallel_read_safe": False, "parallel_write_safe": True}
