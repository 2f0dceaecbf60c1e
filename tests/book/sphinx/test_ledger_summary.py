"""Bars and table of verdicts by section: all claims are counted once, and each part leads to its claims."""

from bs4 import BeautifulSoup
from small_ledger import K, claim, record, write_ledger

from lib.book import ledger
from lib.book.sphinx import ledger_summary as summary

ALL = {"supported": 3, "contradicted": 1, "undecided": 1, "not testable here": 4, "by definition": 2}
TALLIES = [
    ("2.1", {"supported": 3, "contradicted": 1, "by definition": 2}),
    ("2.3", {"undecided": 1, "not testable here": 4}),
]


def test_claims_are_counted_by_section_and_verdict(tmp_path):
    untestable = claim(id="C2.3-02", verdict="not testable here", because="A name.", decided_by=None)
    root = write_ledger(tmp_path, [claim(), untestable], {"quick": {K: record(1.0, 1.0, 1.0)}})
    results = {"quick": ledger.load_results("quick", root)}
    (row,) = summary.rows(ledger.load_claims(root), "quick", results)
    assert row[0] == "2.3" and sum(row[1].values()) == 2 and row[1]["not testable here"] == 1


def test_each_part_of_a_bar_leads_to_its_claims():
    page = BeautifulSoup(summary.bars(TALLIES), "html.parser")
    first, second = page.select("li")
    links = {link.get_text(): link["href"] for link in first.select(".bar a")}
    section = "section=section-2-1-knowledge-distillation#filter"
    assert links == {
        "✓\N{NO-BREAK SPACE}3 supported, section 2.1 Knowledge distillation": f"?verdict=supported&{section}",
        "✗\N{NO-BREAK SPACE}1 contradicted, section 2.1 Knowledge distillation": f"?verdict=contradicted&{section}",
    }
    assert first.select_one("a.name")["href"] == f"?{section}"
    assert [link["href"].split("&")[0] for link in first.select(".apart a")] == ["?verdict=by-definition"]
    assert [bar["style"] for bar in page.select(".bar")] == ["width: 100%", "width: 25%"]
    assert [link["style"] for link in first.select(".bar a")] == ["flex-grow: 3", "flex-grow: 1"]
    assert [link["href"].split("&")[0] for link in second.select(".apart a")] == ["?verdict=not-testable-here"]


def test_the_table_has_the_numbers_of_the_bars_and_their_sums():
    page = BeautifulSoup(summary.table(TALLIES, ALL), "html.parser")
    rows = [[cell.get_text() for cell in row.select("th, td")] for row in page.select("tr")]
    assert rows == [
        ["Section", "✓ supported", "✗ contradicted", "? undecided", "– not testable here", "≡ by definition"],
        ["Section 2.1: Knowledge distillation", "3", "1", "0", "0", "2"],
        ["Section 2.3: Pruning", "0", "0", "1", "4", "0"],
        ["All sections", "3", "1", "1", "4", "2"],
    ]


def test_a_section_of_untestable_claims_has_an_empty_bar():
    page = BeautifulSoup(summary.bars([("3", {"not testable here": 1})]), "html.parser")
    assert page.select_one(".bar")["style"] == "width: 0%" and len(page.select(".bar a")) == 0


def test_titles_of_chapters_are_escaped_for_the_filter():
    assert summary.choices({"b": "B & C", "a": "A"}) == (
        '<ul hidden><li data-of="a">A</li><li data-of="b">B &amp; C</li></ul>'
    )
