"""Chapters and profiles are read; unknown names are refused."""

import pytest

from lib.__main__ import main
from lib.book import chapters

UNREADABLE = {  # a profile -> what is said about it
    "pruned: {terms: 3}": "must be one of limits, passes, not 'pruned'",
    "passes: {term: 3}": (
        "a parameter of the chapter 'passes' in the profile 'quick' must be one of data, terms, values, not 'term'"
    ),
    "limits: {minutes: 3}": "a limit in the profile 'quick' must be one of cell_s, chapter_s, not 'minutes'",
    "- passes": "the profile 'quick' must be {chapter: {parameter: value}}, not a list",
    "passes: 3": "the profile 'quick' must be {chapter: {parameter: value}}, not 'passes': 3",
    "passes: [": "the profile 'quick' is not readable YAML",
}


def refusal(capsys, root, chapter, profile="quick"):
    """What is said, in one line, about a run that is refused."""
    assert main(["--root", str(root), "run", chapter, "--profile", profile]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    return said


@pytest.mark.parametrize("text", UNREADABLE)
def test_unknown_names_in_a_profile_are_refused_in_one_sentence(small_book, capsys, text):
    (small_book / "profiles" / "quick.yml").write_text(text)
    assert UNREADABLE[text] in refusal(capsys, small_book, "passes")


def test_unknown_chapters_and_profiles_are_refused_in_one_sentence(small_book, capsys):
    assert "profile must be one of quick, standard, not 'huge'" in refusal(capsys, small_book, "passes", "huge")
    assert "chapter must be one of passes, not 'pass'" in refusal(capsys, small_book, "pass")


def test_parameters_are_read_from_their_cell(small_book):
    found = chapters.defaults(chapters.notebook(small_book, "passes"))
    assert found == {"data": "none", "terms": 3, "values": [0.5, 1.5, 2.5]}


def test_a_profile_may_be_another_one_on_other_data(small_book):
    (small_book / "profiles" / "standard.yml").write_text("limits: {cell_s: 7}\npasses: {data: mnist, terms: 9}\n")
    (small_book / "profiles" / "fashion.yml").write_text("like: standard\ninstead: {mnist: fashion-mnist}\n")
    wanted = {"limits": {"cell_s": 7}, "passes": {"data": "fashion-mnist", "terms": 9}}
    assert chapters.profile_settings(small_book, "fashion") == wanted
    assert chapters.names_in(small_book, "fashion") == chapters.names_in(small_book, "standard") == ["passes"]
    (small_book / "profiles" / "standard.yml").write_text("passes: {data: digits, terms: 9}\n")
    assert chapters.names_in(small_book, "fashion") == []  # it would be the same run again


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("like: standard", "must have 'like' with another profile, and 'instead' with {data: data}"),
        ("{like: fashion, instead: {mnist: digits}}", "must have 'like' with another profile, and 'instead'"),
        ("{like: standard, instead: mnist}", "must have 'like' with another profile, and 'instead'"),
        (
            "{like: standard, instead: {mnist: digits}, passes: {}}",
            "must have 'like' with another profile, and 'instead'",
        ),
        ("{like: standard, instead: {mnist: minst}}", "data in the profile 'fashion' must be one of .*, not 'minst'"),
        ("{like: huge, instead: {mnist: digits}}", "profile must be one of fashion, quick, standard, not 'huge'"),
    ],
)
def test_a_wrong_profile_on_other_data_is_refused(small_book, text, says):
    (small_book / "profiles" / "fashion.yml").write_text(text)
    with pytest.raises(ValueError, match=says):
        chapters.profile_settings(small_book, "fashion")
