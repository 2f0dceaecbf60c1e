"""The gates on the form of a chapter find what is not as it should be, and let be what is."""

import json
from pathlib import Path

import pytest

from lib.book import form

OPENING = "# %% [markdown]\n# # A chapter\n#\n# Three sentences.\n#\n# ```{claims} one\n# ```\n\n"
FIGURE = '# %%\nfigures.show(figure, alt="a", name="fig-a", caption="c", finding="It falls.", lead=True)\n\n'
PAGE = "<h1>One</h1><p>Half of it goes.</p><figure><img alt='It falls.'></figure><details></details><p>1 ± 2</p>"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book of one chapter, its page, and the results of one profile."""
    for folder in ("chapters", "_build/html/chapters", "results/quick"):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path, OPENING + FIGURE)
    page(tmp_path, PAGE)
    results(tmp_path, {"one.net.dense_error_pct": [2.0, 3.0], "one.net.file_bytes": [200.0]})
    return tmp_path


def write(book: Path, text: str) -> None:
    (book / "chapters" / "one.py").write_text(text)


def page(book: Path, body: str) -> None:
    (book / "_build" / "html" / "chapters" / "one.html").write_text(f"<article><section>{body}</section></article>")


def results(book: Path, values: dict[str, list[float]]) -> None:
    records = {key: {"values": found, "unit": "%", "digits": 1} for key, found in values.items()}
    (book / "results" / "quick" / "one.json").write_text(json.dumps({"records": records, "data": []}))


GATES = (form.openings, form.findings, form.figures_say, form.exercises, form.learned)


@pytest.mark.parametrize("gate", GATES)
def test_a_good_chapter_passes(book, gate):
    counted = {form.findings: "# %% [markdown]\n# **What to see.** It falls.\n", form.exercises: ""}
    write(book, OPENING + FIGURE + counted.get(gate, ""))
    assert gate(book)[1] == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (PAGE.replace("Half of it", "50 ± 3 %"), "its opening has an interval"),
        (PAGE.replace("<figure>", "<h2>Next</h2><figure>"), "its opening has no figure"),
        (PAGE.replace("<figure>", "<details>more</details><figure>"), "its opening has no figure"),
    ],
)
def test_an_opening_without_a_plain_message_is_found(book, body, says):
    page(book, body)
    count, (wrong,) = form.openings(book)
    assert count == 1 and says in wrong


@pytest.mark.parametrize("word", ["Compare the rows", "Look at the left side", "See how it falls"])
def test_a_finding_that_the_reader_must_find_is_found(book, word):
    write(book, f"{OPENING}# %% [markdown]\n# **What to see.** {word} of the table. **What to see.** It falls.\n")
    count, wrong = form.findings(book)
    assert count == 2 and wrong == [f"one: '{word} of the table' asks for the finding"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (FIGURE.replace(', finding="It falls."', ""), "has no finding"),
        (FIGURE.replace(", lead=True", ""), "0 figures are marked"),
        (FIGURE + FIGURE, "2 figures are marked"),
        (FIGURE + "# %%\nax.errorbar(*evidence.interval(values))\n", "it draws an interval itself"),
        (
            FIGURE.replace("figures.show(figure", "figures.curves(lines").replace(", lead=True", ""),
            "0 figures are marked",
        ),
    ],
)
def test_a_figure_without_its_finding_or_place_is_found(book, text, says):
    write(book, OPENING + text)
    count, (wrong,) = form.figures_say(book)
    assert count >= 1 and says in wrong


def test_a_solution_without_an_answer_is_found(book):
    solution = '# %% tags=["hide-cell"]\nprint(7)\n'
    write(book, f"{OPENING}{solution}# %% [markdown]\n# ## Exercises\n#\n# 1. How many?\n\n{solution}")
    count, (wrong,) = form.exercises(book)
    assert count == 1 and wrong == "one: the solution 'print(7)' ... has no answer"
    write(book, f"{OPENING}# %% [markdown]\n# ## Exercises\n\n{solution}evidence.answer('Seven of them are left.')\n")
    assert form.exercises(book) == (1, [])


@pytest.mark.parametrize(
    ("key", "values", "says"),
    [
        ("one.net.dense_error_pct", [88.0, 90.5], "one.net.dense_error_pct is at chance"),
        ("one.net.baseline_error_pct", [89.5], "is at chance"),
        ("one.net.accuracy_pct", [-1.0], "is not between 0 and 100 %"),
        ("one.net.pruned_error_pct", [101.0], "is not between 0 and 100 %"),
    ],
)
def test_a_network_at_chance_and_impossible_shares_are_found(book, key, values, says):
    results(book, {key: values, "one.net.worse_error_pct": [90.0]})
    count, (wrong,) = form.learned(book)
    assert count == 2 and says in wrong and wrong.startswith("quick: ")
