"""The role of a finding shows its words; without a rule it is an error of the page."""

import pytest
from docutils import core
from docutils.parsers.rst import roles

from lib.book import claims
from lib.book.sphinx.finding import Finding, decided


@pytest.fixture(autouse=True)
def _role():
    roles.register_local_role("finding", Finding())
    yield
    del roles._roles["finding"]


def page(text):
    return core.publish_doctree(text, settings_overrides={"report_level": 5})


def test_the_words_are_shown_and_the_rule_is_not():
    tree = page("It :finding:`is smaller | a.file_ratio > 2` now.")
    assert tree.astext() == "It is smaller now." and "finding" in tree.pformat()


@pytest.mark.parametrize("text", ["is smaller", "is smaller |", "| a.file_ratio > 2", "|"])
def test_words_without_a_rule_are_an_error(text):
    said = page(f"It :finding:`{text}` now.").pformat()
    assert "its text must be words, a bar and a rule" in said and 'level="3"' in said


def ledger(**keys):
    made = []
    for name, of in keys.items():
        chapter, number = name.rsplit("_", 1)
        rules = {"quick": [{"key": key, "at_most": 1} for key in of]}
        raw = {"id": f"C2.3-{number}", "section": "2.3", "says": "A.", "verdict": "supported", "decided_by": rules}
        made.append(claims.parsed(raw, chapter, set()))
    return made


@pytest.mark.parametrize(
    ("rule", "id"),
    [
        ("a.b.c > 1", "C2.3-11"),  # of the chapter, and the first of it by its number
        ("a.b.c > a.b.d", "C2.3-02"),  # of both keys
        ("a.b.c > a.b.f", None),  # no claim has both
        ("a.b.e > 1", None),
    ],
)
def test_a_finding_leads_to_the_claim_that_its_measurements_decide(rule, id):
    known = ledger(other_02=["a.b.c", "a.b.d"], own_30=["a.b.c"], own_11=["a.b.c"], other_03=["a.b.f"])
    assert decided(rule, known, "own") == id
