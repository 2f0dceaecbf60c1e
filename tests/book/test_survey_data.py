"""What stands in ``survey/``: catalogue, claims and bibliography agree with each other and with the code."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pybtex.database import parse_file

from lib.book import claims as form
from lib.book import ledger

ROOT = Path(__file__).parents[2]
BIBLIOGRAPHY = parse_file(str(ROOT / "survey" / "references.bib"), bib_format="bibtex").entries
ROWS = yaml.safe_load((ROOT / "survey" / "techniques.yml").read_text("utf-8"))
NEEDED = {
    "article": {"journal"},
    "inproceedings": {"booktitle"},
    "incollection": {"booktitle"},
    "book": {"publisher"},
    "phdthesis": {"school"},
}
KEY = re.compile(r"\b[a-z]+(?:19|20)\d\d[a-z][a-z0-9]*\b")  # gong2014vq


@cache
def claims() -> list[form.Claim]:
    return ledger.load_claims(ROOT)


@cache
def catalogue() -> list[dict[str, Any]]:
    return ledger.load_techniques(ROOT)


def chapter_names() -> set[str]:
    return {path.stem for path in (ROOT / "chapters").glob("*.py")}


def test_the_catalogue_holds_each_technique_once():
    ids = [row["id"] for row in catalogue()]
    assert len(ids) == len(set(ids)) >= 86  # the survey's; a new one adds a row
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", id) for id in ids)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_a_technique_has_its_file_test_chapter_part_and_claims(row):
    assert (ROOT / row["file"]).is_file()
    assert (ROOT / row["test"]).is_file()
    assert f"({row['anchor']})=" in (ROOT / "chapters" / f"{row['chapter']}.py").read_text("utf-8")
    assert row["claims"]
    assert row["idea"].strip().endswith(".")


def test_every_chapter_has_claims_and_every_claim_a_chapter():
    assert {claim.chapter for claim in claims()} == chapter_names()


def test_a_rule_names_only_keys_of_chapters():
    rules = [rule for claim in claims() for found in claim.rules.values() for rule in found]
    assert rules
    assert {key.split(".")[0] for rule in rules for key in rule.keys} <= chapter_names()


def test_the_keys_of_the_bibliography_are_unique():
    text = (ROOT / "survey" / "references.bib").read_text("utf-8")
    keys = re.findall(r"^@\w+\{([^,]+),", text, re.M)
    assert len(keys) == len(set(keys)) == len(BIBLIOGRAPHY)
    assert set(keys) == ledger.bibliography_keys(ROOT)


@pytest.mark.parametrize("key", sorted(BIBLIOGRAPHY))
def test_an_entry_of_the_bibliography_is_complete(key):
    entry = BIBLIOGRAPHY[key]
    assert entry.persons["author"]
    assert {"title", "year"} | NEEDED[entry.type] <= set(entry.fields)
    assert "note" not in entry.fields
    assert KEY.fullmatch(key)
    assert entry.fields["year"] in key


def test_what_is_cited_is_in_the_bibliography():
    cited = {}
    for path in [*ROOT.glob("*.md"), *(ROOT / "chapters").glob("*.py"), *(ROOT / "survey" / "claims").glob("*.yml")]:
        cited[path.name] = set(form.cited(path.read_text("utf-8")))
    for path in (ROOT / "lib").rglob("*.py"):
        cited[path.relative_to(ROOT).as_posix()] = set(KEY.findall(path.read_text("utf-8")))
    for row in ROWS:
        cited[row["id"]] = set(row["source"])
    for claim in claims():
        cited[claim.id] = {claim.reported["source"]} if claim.reported and "source" in claim.reported else set()
    assert set().union(*cited.values()) >= {"berthelier2020survey", "han2016deep", "han2015learning"}
    assert {name: keys - set(BIBLIOGRAPHY) for name, keys in cited.items() if keys - set(BIBLIOGRAPHY)} == {}
