"""The page of errata: its order, its entries, and what the survey's own errata need."""

from pathlib import Path

import pytest

from lib.book import ledger
from lib.book.claims import Claim, cited
from lib.book.sphinx import errata

PROJECT = Path(__file__).parents[3]
COUNTED = {"C2.1-01", "C3.2.2-13"}  # a count decides them: no source is quoted


def claim(id: str, section: str, erratum: str | None = "In the source it is {cite:t}`han2016deep`.") -> Claim:
    return Claim(id, section, "pruning", "It is so (here, on digits).", "supported", {}, erratum=erratum)


@pytest.fixture(scope="module")
def claims() -> list[Claim]:
    return ledger.load_claims(PROJECT)


def test_errata_follow_the_sections_of_the_survey_and_the_ids():
    given = [claim("C4-02", "4"), claim("C2.3-10", "2.3"), claim("C2.3-09", "2.3"), claim("C2.1-01", "2.1", None)]
    found = errata.by_section(given)
    assert {section: [one.id for one in own] for section, own in found.items()} == {
        "2.3": ["C2.3-09", "C2.3-10"],
        "4": ["C4-02"],
    }
    assert list(found) == ["2.3", "4"]


def test_an_entry_sets_the_survey_beside_its_source():
    entry = errata.entry(claim("C2.3-09", "2.3"))
    assert entry == "The survey\n: It is so.\n\nIts source\n: In the source it is {cite:t}`han2016deep`."


def test_an_entry_without_a_source_says_why():
    entry = errata.entry(claim("C2.3-09", "2.3", "It is one more."))
    assert "Its source" not in entry
    assert entry.endswith(f"Source\n: {errata.BY_ARITHMETIC}")


def test_the_survey_has_seventy_five_errata_with_a_source(claims):
    wrong = [one for one in claims if one.erratum]
    assert sum(bool(cited(one.erratum)) for one in wrong) >= 75
    assert {one.id for one in wrong if not cited(one.erratum)} <= COUNTED


def test_no_erratum_quotes_the_survey_as_its_own_source(claims):
    assert [one.id for one in claims if one.erratum and set(cited(one.erratum)) == {"berthelier2020survey"}] == []


def test_each_sentence_of_the_survey_stands_alone_on_the_page(claims):
    for one in (one for one in claims if one.erratum):
        assert "here," not in one.sentence.lower() and "here:" not in one.sentence.lower(), one.id
        assert not one.sentence.startswith(("It ", "Its ", "...")), one.id
