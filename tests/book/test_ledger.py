"""What lies on the disk: claims, results and the catalogue are read, or refused with one clear error."""

from pathlib import Path

import pytest
import yaml
from small_ledger import K, claim, record, write_ledger

from lib.book import ledger


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"records": {"a.b.c": {"values": [], "unit": "", "digits": 0}}}', '{"records": {"a.b.c": 3}}',
     '{"records": {"a.b.c": {"values": [NaN], "unit": "", "digits": 0}}}'],
)  # fmt: skip
def test_damaged_results_are_one_clear_error(tmp_path, text):
    path = write_ledger(tmp_path, [claim()], {"quick": {K: record(1.0)}}) / "results" / "quick" / "pruning.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"pruning\.json of the quick profile is damaged"):
        ledger.load_results("quick", tmp_path)


def test_a_key_in_two_chapters_results_is_an_error(tmp_path):
    root = write_ledger(tmp_path, [claim()], {"quick": {K: record(1.0)}})
    path = root / "results" / "quick" / "pruning.json"
    path.with_name("other.json").write_text(path.read_text())
    with pytest.raises(ValueError, match=r"'pruning\.net\.error_pct' is recorded twice in the quick profile"):
        ledger.load_results("quick", root)


@pytest.mark.parametrize(
    ("text", "says"), [("- id: [", "not readable YAML"), ("id: C2.3-01", "must hold a list of claims, not a dict")]
)
def test_an_unreadable_file_of_claims_is_one_clear_error(tmp_path, text, says):
    root = write_ledger(tmp_path, [])
    (root / "survey" / "claims" / "pruning.yml").write_text(text)
    with pytest.raises(ValueError, match=says):
        ledger.load_claims(root)


def test_a_claim_cannot_run_code(tmp_path):
    root = write_ledger(tmp_path, [])
    trap = tmp_path / "trap"
    text = f"- !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{trap}']]"
    (root / "survey" / "claims" / "pruning.yml").write_text(text)
    with pytest.raises(ValueError, match="not readable YAML"):
        ledger.load_claims(root)
    assert not trap.exists()


# --- the catalogue -----------------------------------------------------------------------------------------------

ROW = {
    "id": "a", "name": "A", "section": "2.3", "idea": "I.", "source": ["known2020"], "file": "f", "test": "t",
    "chapter": "pruning", "anchor": "sec-a", "claims": ["C2.3-01"],
}  # fmt: skip


def write_catalogue(root: Path, *rows: dict) -> Path:
    write_ledger(root, [claim()])
    (root / "survey" / "techniques.yml").write_text(yaml.safe_dump(list(rows)))
    return root


def test_a_right_catalogue_is_read(tmp_path):
    assert ledger.load_techniques(write_catalogue(tmp_path, ROW)) == [ROW]
    row = ROW | {"contract": {"kind": "weights", "call": "a.prune(model)"}}
    assert ledger.load_techniques(write_catalogue(tmp_path, row, ROW | {"id": "b"})) == [row, ROW | {"id": "b"}]


@pytest.mark.parametrize("text", ["", "here: [{id: a}]"])
def test_a_catalogue_that_is_no_list_is_refused(tmp_path, text):
    (write_catalogue(tmp_path) / "survey" / "techniques.yml").write_text(text)
    with pytest.raises(ValueError, match=r"techniques\.yml must hold a list of techniques, not a"):
        ledger.load_techniques(tmp_path)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([ROW | {"source": ["nobody1900"]}], "the technique 'a' cites 'nobody1900'"),
        ([ROW | {"claims": ["C2.3-99"]}], r"the technique 'a' names the claim 'C2\.3-99'"),
        ([{k: v for k, v in ROW.items() if k != "idea"}], "the technique 'a' must have the fields"),
        ([ROW, ROW | {"section": "2.4"}], "'a' is in the catalogue twice"),
        ([ROW | {"section": "9"}], "a section of the catalogue must be one of .*, not '9'"),
    ],
)
def test_a_wrong_catalogue_is_one_clear_error(tmp_path, rows, says):
    with pytest.raises(ValueError, match=says):
        ledger.load_techniques(write_catalogue(tmp_path, *rows))
