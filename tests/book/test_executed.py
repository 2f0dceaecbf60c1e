"""What the build makes of an executed notebook before MyST-NB sees it."""

import ast

import nbformat

from lib.book.sphinx import executed


def output(text: str, figure: str | None = None) -> nbformat.NotebookNode:
    marks = (
        {"survey": {"figure": {"alt": f"alt of {figure}", "name": figure, "caption": "A caption"}}} if figure else {}
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


CODE = '''def double(x: int) -> int:
    r"""Return x twice,
    as one number.

    x: any number.
    """

    return 2 * x


class Pair:
    """Two of them."""

    def first(self):
        """The first.

        Raises nothing."""
        return "\\n\\n"'''


def test_shown_code_keeps_the_first_paragraph_of_its_docstrings():
    short = executed.shortened(CODE)
    assert short.splitlines()[:5] == [
        "def double(x: int) -> int:",
        '    r"""Return x twice,',
        '    as one number."""',
        "",
        "    return 2 * x",
    ]
    assert short.split("class Pair")[1] == CODE.split("class Pair")[1]  # has nothing to cut
    assert ast.dump(ast.parse(short)).count("any number") == 0 and executed.shortened("def (") == "def ("
    shown = nbformat.v4.new_output("display_data", {"text/markdown": f"```python\n{CODE}\n```"})
    made = executed.with_short_code(notebook(shown, output("table")))
    assert made.cells[1].outputs[0].data["text/markdown"] == f"```python\n{short}\n```"
