"""README's table of techniques is the catalogue's."""

from pathlib import Path

import pytest
from pybtex.database import Person

from lib.book import catalogue

PROJECT = Path(__file__).parents[2]


def test_the_readme_has_a_row_for_each_technique():
    text = (PROJECT / "README.md").read_text()
    assert text == catalogue.written(text, catalogue.table(PROJECT)), "make table writes it"
    assert len(catalogue.table(PROJECT).splitlines()) == 2 + len(catalogue.rows(PROJECT)) > 2


@pytest.mark.parametrize(
    ("people", "shown"),
    [
        (["Han, Song"], "Han"),
        (["van der Maaten, Laurens", "Hinton, Geoffrey"], "van der Maaten and Hinton"),
        (["Li, Hao", "Kadav, Asim", "Durdanovic, Igor"], "Li et al."),
        (["{ISO}"], "ISO"),
        ([r"M{\"u}ller, R", r"Bucil{\u{a}}, C"], "Müller and Bucilă"),
    ],
)
def test_a_paper_is_named_by_its_authors(people, shown):
    assert catalogue.authors([Person(name) for name in people]) == shown


@pytest.mark.parametrize("text", ["", catalogue.BEGIN, f"{catalogue.END}\n{catalogue.BEGIN}"])
def test_a_readme_without_its_marks_is_refused(text):
    with pytest.raises(ValueError, match=r"README\.md needs one line"):
        catalogue.written(text, "table")
