"""The table of contents: a part for each section of the survey, under the survey's own title."""

from pathlib import Path

import yaml

from lib.book import ledger
from lib.book.claims import SECTIONS

PROJECT = Path(__file__).parents[2]
PARTS = {
    part["caption"]: [Path(entry["file"]).name for entry in part["chapters"]]
    for part in yaml.safe_load((PROJECT / "_toc.yml").read_text("utf-8"))["parts"]
}


def test_parts_carry_number_and_title_of_their_section():
    titles = {f"{number} {title}" for number, title in SECTIONS.items()}
    assert [caption for caption in PARTS if caption not in titles] == ["Start here", "The evidence", "The book"]


def test_each_technique_is_in_the_part_of_its_section():
    rows = ledger.load_techniques(PROJECT)
    own = [row for row in rows if row["section"].startswith(("2.", "3."))]
    assert own
    for row in own:
        section = f"{row['section']} {SECTIONS[row['section']]}"
        assert row["chapter"] in PARTS[section], f"{row['chapter']} is not in the part {section}"


def test_integers_follow_the_first_chapter_of_quantization():
    assert PARTS["2.4 Quantization"][:2] == ["quantization", "quantization_integers"]
