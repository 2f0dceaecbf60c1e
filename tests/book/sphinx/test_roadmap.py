"""The map of the book: every technique and chapter has its place, and every node leads somewhere."""

from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup
from survey_book import build, tiny_book

from lib.book import ledger
from lib.book.sphinx.roadmap import Place, tree

PROJECT = Path(__file__).parents[3]
TOC = {
    "parts": [
        {"caption": "1 Introduction", "chapters": [{"file": "chapters/introduction"}]},
        {"caption": "2.3 Pruning", "chapters": [{"file": "chapters/pruning"}, {"file": "chapters/pruning_speed"}]},
        {"caption": "3.2.1 Self-organization", "chapters": [{"file": "chapters/maps"}]},
        {"caption": "The evidence", "chapters": [{"file": "claims"}]},
    ]
}


def every(places: list[Place]) -> list[Place]:
    return [one for place in places for one in (place, *every(place.below))]


def test_sections_hang_below_those_that_they_belong_to():
    first, second, third = tree(TOC, [])
    assert (first.title, first.chapters, first.below) == ("Introduction", ["introduction"], [])
    assert [place.number for place in every([second, third])] == ["2", "2.3", "3", "3.2", "3.2.1"]
    assert second.below[0].chapters == ["pruning", "pruning_speed"]
    assert third.below[0].below[0].chapters == ["maps"]


def test_what_is_no_section_of_the_survey_is_not_on_the_map():
    assert not any("claims" in place.chapters for place in every(tree(TOC, [])))


def test_techniques_are_counted_where_they_are_and_above():
    places = {place.number: place for place in every(tree(TOC, ["2.3", "2.3", "3.2.1", "3.1"]))}
    counts = {number: (place.own, place.techniques) for number, place in places.items()}
    assert counts["2"] == (0, 2) and counts["2.3"] == (2, 2)
    assert counts["3"] == (0, 2) and counts["3.1"] == (1, 1) and counts["3.2"] == (0, 1)


def test_a_section_without_techniques_begins_with_its_first_chapter():
    places = {place.number: place for place in every(tree(TOC, ["3.1"]))}
    assert [places[number].first for number in ("2", "3", "3.1")] == ["pruning", "maps", None]


@pytest.mark.parametrize("number", ["2.9", "7"])
def test_a_section_that_the_survey_lacks_is_refused(number):
    with pytest.raises(ValueError, match=f"must be one of 1, 2, 2.1, .*, not '{number}'"):
        tree(TOC, [number])


def test_each_technique_and_chapter_of_the_book_is_on_its_map():
    toc = yaml.safe_load((PROJECT / "_toc.yml").read_text("utf-8"))
    rows = ledger.load_techniques(PROJECT)
    places = tree(toc, (row["section"] for row in rows))
    assert sum(place.techniques for place in places) == len(rows)
    shown = [chapter for place in every(places) for chapter in place.chapters]
    numbered = [part for part in toc["parts"] if part["caption"][0].isdigit()]  # by the survey's sections
    files = [entry["file"] for part in numbered for entry in part["chapters"]]
    assert shown == [name.removeprefix("chapters/") for name in files if name.startswith("chapters/")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    root = tiny_book(tmp_path_factory.mktemp("map"))
    parts = [{"caption": "2.3 Pruning", "chapters": [{"file": "chapters/pruning"}]}]
    parts += [{"caption": "2.4 Quantization", "chapters": [{"file": "chapters/quantization"}]}]
    parts += [
        {
            "caption": "The book",
            "chapters": [{"file": name} for name in ("claims", "techniques", "references", "reproduce")],
        }
    ]
    (root / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "index", "parts": parts}))
    (root / "index.md").write_text(
        "# Title\n\n{cite:t}`berthelier2020survey`\n\n```{roadmap}\n```\n\n(reading-a-verdict)=\n## Part\n"
    )
    done = build(root)
    assert done.returncode == 0, done.stdout + done.stderr
    return BeautifulSoup((root / "_build" / "html" / "index.html").read_text("utf-8"), "html.parser")


def words(tag) -> str:
    return " ".join(tag.get_text(" ").split())


def test_every_node_of_the_map_is_a_link(page):
    lines = page.select(".roadmap li > p")
    assert [words(line) for line in lines] == [
        "2 Compression techniques 4 techniques",
        "2.3 Pruning 1 technique",
        "Pruning 1 technique",
        "2.4 Quantization 3 techniques",
        "Quantization 1 technique",  # the others are shown by chapters that this small book lacks
    ]
    assert [line.a["href"] for line in lines] == [
        "chapters/pruning.html",
        "techniques.html#section-2-3-pruning",
        "chapters/pruning.html",
        "techniques.html#section-2-4-quantization",
        "chapters/quantization.html",
    ]


def test_chapters_hang_below_their_section(page):
    section = page.select_one(".roadmap .roadmap-branch > ul > li")
    assert words(section.p).startswith("2.3") and [words(line.a) for line in section.ul.find_all("p")] == ["Pruning"]


def test_only_pages_with_a_map_load_its_style(page):
    assert page.select('link[href*="roadmap.css"]')
