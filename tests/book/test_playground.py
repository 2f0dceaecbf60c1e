"""The record of the sliders: damaged or of other code it is named; its numbers come from networks."""

import json
from pathlib import Path

import pytest
from quiz_book import sliders

from lib.book import playground

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def book(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "chapters").mkdir()
    (tmp_path / playground.RECORD).write_text(json.dumps(sliders(playground.digest(tmp_path))))
    return tmp_path


def test_a_whole_record_of_the_present_code_passes(book):
    assert playground.gate(book) == (len(playground.DENSITIES) * len(playground.BITS), [])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda record: record.update(code="other"), "results/playground.json is of other code"),
        (lambda record: record["settings"].pop(), "other settings than the sliders have"),
        (lambda record: record["settings"][0].pop("bytes"), "results/playground.json is damaged"),
        (lambda record: record["settings"][3].update(error_pct=[float("nan")]), "a setting without its numbers"),
        (lambda record: record["settings"][3].update(histogram=[1]), "a setting without its numbers"),
        (lambda record: record.update(dense_bytes=0), "no size of the dense network"),
    ],
)
def test_a_damaged_record_is_named_in_one_sentence(book, change, says):
    record = json.loads((book / playground.RECORD).read_text())
    change(record)
    (book / playground.RECORD).write_text(json.dumps(record))
    _, wrong = playground.gate(book)
    assert len(wrong) == 1 and says in wrong[0]


def test_a_missing_record_says_which_command_writes_it(book):
    (book / playground.RECORD).unlink()
    assert playground.gate(book)[1] == ["results/playground.json is missing: python -m lib.book.playground"]


def test_measuring_fills_every_setting_as_bits_and_weights_decide(monkeypatch, tmp_path):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    monkeypatch.setattr(playground, "DENSITIES", (100, 10))
    monkeypatch.setattr(playground, "BITS", (32, 3))
    plan = {"data": "digits", "seeds": 1, "epochs": 3, "retrain_epochs": 2, "learning_rate": 0.1}
    record = playground.measured(plan)
    rows = {(row["density"], row["bits"]): row for row in record["settings"]}
    size = {key: row["bytes"][0] for key, row in rows.items()}
    assert abs(size[100, 32] - record["dense_bytes"]) < 100
    assert size[10, 3] < min(size[100, 3], size[10, 32]) and max(size[100, 3], size[10, 32]) < size[100, 32] / 7
    middle = playground.BINS // 2
    assert rows[10, 32]["histogram"][middle] >= 0.9 * 784 * 300 > rows[100, 32]["histogram"][middle]
    assert sum(count > 0 for count in rows[100, 3]["histogram"]) <= 8
    assert rows[100, 32]["error_pct"][0] < 50


def test_the_committed_record_is_of_the_present_code():
    count, wrong = playground.gate(PROJECT)
    assert (count, wrong) == (49, [])
