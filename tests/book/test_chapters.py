"""Chapters and profiles are read; unknown names are refused."""

import pytest

from lib.__main__ import main
from lib.book import chapters


@pytest.mark.parametrize(
    ("profile", "text", "chapter", "says"),
    [
        ("huge", None, "passes", "profile must be one of quick, standard, not 'huge'"),
        ("quick", None, "pass", "chapter must be one of passes, not 'pass'"),
        (
            "quick",
            "pruned: {terms: 3}",
            "passes",
            "must be one of limits, passes, not 'pruned'",
        ),
        (
            "quick",
            "passes: {term: 3}",
            "passes",
            "a parameter of the chapter 'passes' in the profile 'quick' must be one of data, terms, values, not 'term'",
        ),
        (
            "quick",
            "limits: {minutes: 3}",
            "passes",
            "a limit in the profile 'quick' must be one of cell_s, chapter_s, not 'minutes'",
        ),
        ("quick", "- passes", "passes", "the profile 'quick' must be {chapter: {parameter: value}}, not a list"),
        ("quick", "passes: 3", "passes", "the profile 'quick' must be {chapter: {parameter: value}}, not 'passes': 3"),
        ("quick", "passes: [", "passes", "the profile 'quick' is not readable YAML"),
    ],
)
def test_unknown_names_are_refused_in_one_sentence(small_book, capsys, profile, text, chapter, says):
    if text:
        (small_book / "profiles" / "quick.yml").write_text(text)
    assert main(["--root", str(small_book), "run", chapter, "--profile", profile]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert says in said
    assert len(said.splitlines()) == 1


def test_parameters_are_read_from_their_cell(small_book):
    found = chapters.defaults(chapters.notebook(small_book, "passes"))
    assert found == {"data": "none", "terms": 3, "values": [1.0, 2.0]}
