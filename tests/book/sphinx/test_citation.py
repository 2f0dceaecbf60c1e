"""How to cite the book: BibTeX of CITATION.cff."""

from pathlib import Path

import pytest
import yaml
from pybtex.database import parse_string

from lib.book.sphinx.citation import bibtex

PROJECT = Path(__file__).parents[3]
CFF = {
    "title": "Deep models",
    "date-released": "2026-03-01",
    "authors": [{"family-names": "Roe", "given-names": "Jane"}],
}


def test_the_book_has_an_entry_that_bibtex_reads():
    cff = yaml.safe_load((PROJECT / "CITATION.cff").read_text("utf-8"))
    (entry,) = parse_string(bibtex(cff, "https://example.org/book"), "bibtex").entries.values()
    assert entry.fields["title"].strip("{}") == cff["title"]
    assert entry.fields["url"] == "https://example.org/book"
    (author,) = entry.persons["author"]
    assert str(author).strip("{}") == cff["authors"][0]["name"]


def test_people_and_groups_are_told_apart():
    cff = CFF | {"authors": [*CFF["authors"], {"name": "A group and friends"}]}
    entry = parse_string(bibtex(cff), "bibtex").entries["deep2026"]
    assert [str(person).strip("{}") for person in entry.persons["author"]] == ["Roe, Jane", "A group and friends"]
    assert "url" not in entry.fields


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"authors": []}, "must have 'authors'"),
        ({"title": ""}, "must have 'title'"),
        ({"authors": [{"orcid": "1"}]}, "must have 'name' or 'family-names'"),
    ],
)
def test_what_is_missing_is_named(change, says):
    with pytest.raises(ValueError, match=says):
        bibtex(CFF | change)
