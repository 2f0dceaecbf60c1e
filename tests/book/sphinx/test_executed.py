"""What the build makes of an executed notebook before MyST-NB sees it."""

import ast
import copy

import nbformat
import pytest

from lib import evidence
from lib.book.sphinx import executed


def output(text: str, figure: str | None = None, **more: object) -> nbformat.NotebookNode:
    marks = (
        {"survey": {"figure": {"alt": f"alt of {figure}", "name": figure, "caption": "A caption"} | more}}
        if figure
        else {}
    )
    return nbformat.v4.new_output("display_data", {"text/plain": text}, metadata=marks)


def notebook(*outputs: nbformat.NotebookNode) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell("show()", outputs=list(outputs), metadata={"tags": ["remove-input"]})
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("Text"), cell])


def test_every_figure_has_a_cell_and_words_of_its_own():
    given = (output("table"), output("one", "fig-a"), output("two", "fig-b"), output("last"), output("more"))
    made = executed.with_figures(notebook(*given))
    nbformat.validate(made)
    texts = [[shown.data["text/plain"] for shown in cell.outputs] for cell in made.cells[1:]]
    assert texts == [["table"], ["one"], ["two"], ["last", "more"]]
    words = [cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in made.cells[1:]]
    assert words == [None, "fig-a", "fig-b", None]
    assert made.cells[2].metadata["mystnb"]["image"] == {"alt": "alt of fig-a"}
    assert all(cell.source.strip() for cell in made.cells), "MyST-NB leaves a cell without source out, outputs and all"
    assert all("remove-input" in cell.metadata["tags"] for cell in made.cells[1:])


def test_a_cell_with_at_most_one_figure_stays_as_it_is():
    made = executed.with_figures(notebook(output("one", "fig-a")))
    assert [cell.cell_type for cell in made.cells] == ["markdown", "code"]
    assert made.cells[1].metadata["mystnb"]["figure"] == {"caption": "A caption", "name": "fig-a"}
    plain = notebook(output("table"), output("other"))
    assert executed.with_figures(plain).cells[1].metadata == {"tags": ["remove-input"]}


def glued(key: str, **survey: object) -> nbformat.NotebookNode:
    """What recording a measurement or gluing a phrase shows, as a saved run holds it."""
    data = {f"{evidence.GLUE}text/plain": "'8 %'", "text/plain": f"{key}: 8 %"}
    marks = {"scrapbook": {"name": key, "mime_prefix": evidence.GLUE}} | ({"survey": survey} if survey else {})
    return nbformat.v4.new_output("display_data", data, metadata=marks)


def test_what_a_notebook_shows_of_glued_texts_is_dropped():
    given = (glued("a.b.c", record={"key": "a.b.c"}), output("table"), glued("a.b.word"))
    made = executed.without_echo(notebook(*given))
    assert [sorted(one.data) for one in made.cells[1].outputs] == [
        [f"{evidence.GLUE}text/plain"],
        ["text/plain"],
        [f"{evidence.GLUE}text/plain"],
    ]
    assert made.cells[1].outputs[0].metadata["survey"]["record"] == {"key": "a.b.c"}


OPENING = "# Pruning\n\nHow much can go? Most.\n\n"


@pytest.mark.parametrize("below", ["```{claims} pruning\n```\n", "## What the survey says\n\nMuch.\n", ""])
def test_the_lead_figure_is_below_the_opening_with_its_number(below):
    given = notebook(output("other", "fig-a"), output("first", "fig-b", lead=True))
    given.cells[0].source = OPENING + below
    made = executed.with_figures(executed.with_lead(given))
    nbformat.validate(made)
    opening, shown, *rest = made.cells
    assert opening.source == OPENING and shown.outputs[0].data["text/plain"] == "first"
    assert shown.source.strip() and shown.metadata["tags"] == ["remove-input"]
    assert shown.metadata["mystnb"] == {
        "image": {"alt": "alt of fig-b"},
        "figure": {"name": "fig-b", "caption": "A caption"},
    }
    assert [cell.source for cell in rest if cell.cell_type == "markdown"] == ([below] if below else [])


def test_where_it_is_drawn_the_lead_figure_is_a_picture():
    given = notebook(output("first", "fig-b", lead=True), output("other", "fig-a"))
    made = executed.with_figures(executed.with_lead(given))
    *_, drawn, other = made.cells
    assert drawn.outputs[0].data["text/plain"] == "first"
    assert drawn.metadata["mystnb"] == {"image": {"alt": "alt of fig-b"}}
    names = [cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in made.cells]
    assert names.count("fig-b") == 1 and other.metadata["mystnb"]["figure"]["name"] == "fig-a"


def test_a_page_without_a_lead_figure_stays_as_it_is():
    given = notebook(output("other", "fig-a"))
    given.cells[0].source = OPENING + "## Next\n"
    before = copy.deepcopy(given)
    assert executed.with_lead(given) == before


def test_two_lead_figures_are_refused():
    given = notebook(output("one", "fig-a", lead=True), output("two", "fig-b", lead=True))
    before = copy.deepcopy(given)
    with pytest.raises(ValueError, match=r"^a page shows one figure first, but 2 are marked as lead=True$"):
        executed.with_lead(given)
    assert given == before


LONG = f"def f(first, second):\n    return {' + '.join(['function(first, second)'] * 4)}"


def lines(code: str) -> list[int]:
    return [len(line) for line in code.splitlines()]


def alone(code: str) -> str:
    (broken,) = executed.narrow([code])
    return broken


def test_shown_code_is_broken_at_88_letters():
    assert max(lines(LONG)) > 88 >= max(lines(alone(LONG)))
    assert ast.dump(ast.parse(alone(LONG))) == ast.dump(ast.parse(LONG))
    exact = f"x = {'1' * 84}"
    assert alone(exact) == exact and len(exact) == 88


def test_a_comment_that_does_not_fit_goes_above_its_line():
    words = "why this is so, " * 5 + "ends"
    assert alone(f"if x > 0:  # {words}\n    y = 1") == f"# {words}\nif x > 0:\n    y = 1"
    long = alone(f"def f():\n    # {words} {words}\n    return 1  # one")
    assert max(lines(long)) <= 88 and long.count("    # ") == 3 and long.endswith("\n    return 1  # one")
    assert alone(f'x = "# {words}"') == f'x = "# {words}"'


@pytest.mark.parametrize("code", ["def (", "for x in:\n    " + "y" * 90, "# ×\nif"])
def test_code_that_does_not_parse_is_left_alone(code):
    assert alone(code) == code


def test_lines_of_a_method_are_code_as_well():
    code = "s = a × b  # no".replace("×", "*") + "\nreturn s  # s² ≥ 0"
    assert alone(code) == code


def test_every_block_of_shown_code_is_broken_and_other_text_stays():
    text = f"```python\n{LONG}\n```\n\n<details>\n\n```python\n{LONG}\n```\n\n</details>"
    other = f"```text\n{LONG}\n```"
    given = [nbformat.v4.new_output("display_data", {"text/markdown": shown}) for shown in (text, other)]
    made = executed.with_narrow_code(notebook(*given, output(LONG))).cells[1].outputs
    narrow = alone(LONG)
    assert made[0].data["text/markdown"] == text.replace(LONG, narrow) and narrow != LONG
    assert made[1].data["text/markdown"] == other and made[2].data["text/plain"] == LONG


def chapter(*cells: str | nbformat.NotebookNode) -> nbformat.NotebookNode:
    made = [nbformat.v4.new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    return nbformat.v4.new_notebook(cells=made)


def folded(*outputs: nbformat.NotebookNode, tags: tuple[str, ...] = ("hide-cell",)) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell("solve()", outputs=list(outputs), metadata={"tags": list(tags)})


def labels(made: nbformat.NotebookNode) -> list[str | None]:
    return [cell.metadata.get("mystnb", {}).get("code_prompt_show") for cell in made.cells if cell.cell_type == "code"]


def test_the_solutions_below_the_exercises_are_numbered():
    given = chapter("# One", folded(), "## Exercises\n\n1. How?", folded(), folded(tags=()), "2. Why?", folded())
    made = executed.with_solutions(given)
    assert labels(made) == [None, "Solution 1", None, "Solution 2"]
    assert made.cells[3].metadata["mystnb"]["code_prompt_hide"] == "Hide solution 1"


def test_folded_cells_after_the_exercises_are_no_solutions():
    given = chapter("## Exercises", folded(), "### Hard ones", folded(), "## In short\n\n- Yes.", folded())
    assert labels(executed.with_solutions(given)) == ["Solution 1", "Solution 2", None]


def test_a_solution_with_figures_has_one_number_and_keeps_their_words():
    given = chapter("## Exercises", folded(output("text"), output("one", "fig-a"), output("more")), folded())
    made = executed.with_solutions(executed.with_figures(given))
    assert labels(made) == ["Solution 1", "Solution 1", "Solution 1", "Solution 2"]
    assert made.cells[2].metadata["mystnb"]["figure"]["name"] == "fig-a"
