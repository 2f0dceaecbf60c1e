"""A chapter as a notebook to download."""

import nbformat
import pytest

from lib.book.sphinx import means, notebooks

CODE = """
from lib import evidence
evidence.record("pruning.lenet5.error_pct", [1.0, 2.0, 3.0], "%", 1)
"""


@pytest.fixture
def chapter() -> nbformat.NotebookNode:
    text = nbformat.v4.new_markdown_cell("It is {glue:text}`pruning.lenet5.error_pct`, {glue:text}`not.there.yet`.")
    data = {notebooks.GLUED: "'2.0 ± 2.5 %'"}
    marks = {"scrapbook": {"mime_prefix": "application/papermill.record/", "name": "pruning.lenet5.error_pct"}}
    code = nbformat.v4.new_code_cell(CODE, outputs=[nbformat.v4.new_output("display_data", data, metadata=marks)])
    about = {"survey": {"processor": "a processor"}, "kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return nbformat.v4.new_notebook(cells=[text, code], metadata=about)


def test_a_notebook_says_first_how_to_run_it(chapter):
    made = notebooks.to_run(chapter, "pruning", "https://example.org/book")
    nbformat.validate(made)
    assert made.cells[0].cell_type == "markdown"
    for part in ("`chapters`", "https://example.org/book", "`.venv/bin/python -m jupyterlab chapters/pruning.ipynb`"):
        assert part in made.cells[0].source
    assert [cell.source for cell in made.cells[2:]] == [CODE]
    assert "https" not in notebooks.to_run(chapter, "pruning").cells[0].source


def test_measured_numbers_stand_in_its_text(chapter):
    text = notebooks.to_run(chapter, "pruning").cells[1].source
    assert text == "It is **2.0 ± 2.5 %**, {glue:text}`not.there.yet`."


def test_means_stand_in_its_text_where_they_were_measured(chapter):
    chapter.cells[0].source = "From {mean}`pruning.lenet5.error_pct 0` to {mean}`not.there.yet`."
    results = {means.PROFILE: {"pruning.lenet5.error_pct": {"values": [1.0, 2.2], "unit": "%", "digits": 2}}}
    text = notebooks.to_run(chapter, "pruning", results=results).cells[1].source
    assert text == "From **2 %** to {mean}`not.there.yet`."


def test_the_run_is_left_as_it_was_without_its_machine(chapter):
    before = nbformat.writes(chapter)
    assert "survey" not in notebooks.to_run(chapter, "pruning").metadata
    first, second = (nbformat.writes(notebooks.to_run(chapter, "pruning")) for _ in range(2))
    assert first == second
    assert nbformat.writes(chapter) == before
