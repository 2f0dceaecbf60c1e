"""Deterding's vowels: the published rows, by speakers."""

import given
import numpy as np
import pandas
import pytest
import torch
from small_sets import ROOT, lengths, same

from lib import datasets
from lib.datasets import vowel

pytestmark = pytest.mark.skipif(not (ROOT / "vowel").is_dir(), reason="SURVEY_DATA holds no vowels")
COLUMNS = ["class", "speaker", "sex", *(f"x{i}" for i in range(1, 11))]


def held(split: str) -> pandas.DataFrame:
    return pandas.read_csv(ROOT / "vowel" / f"{split}.csv")


def test_splits_are_by_speakers():
    found, train, test = datasets.load("vowel"), held("train"), held("test")
    assert lengths(found) == [396, 132, 462] and len(found.classes) == 11 and found.name == "vowel"
    for part, rows in (
        (found.train, train[train.speaker < 6]),
        (found.validation, train[train.speaker >= 6]),
        (found.test, test),
    ):
        assert np.array_equal(part.images.numpy(), rows[COLUMNS[3:]].to_numpy().astype(np.float32))
        assert part.labels.tolist() == rows["class"].tolist()
        assert part.labels.bincount().tolist() == [len(rows) // 11] * 11
    assert found.train.images.dtype == torch.float32 and found.train.labels.dtype == torch.int64
    assert set(test.speaker) == set(range(8, 15)) and "speakers 6 and 7" in found.source


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-40], "SHA-256 of its rows"),
        (lambda text: text.replace("0.418", "0.419", 1).replace("1.206", "1.207", 1), "SHA-256 of its rows"),
        (lambda text: text + text.splitlines()[-1] + "\n", "SHA-256 of its rows"),
        (lambda text: text.split("\n", 1)[1], "its first line is"),
        (lambda text: "", "its first line is ''"),
    ],
)
def test_a_damaged_file_is_named(split, change, message, nowhere):
    (nowhere / "vowel").mkdir()
    for other in ("train", "test"):
        text = (ROOT / "vowel" / f"{other}.csv").read_text()
        (nowhere / "vowel" / f"{other}.csv").write_text(change(text) if other == split else text)
    with pytest.raises(ValueError, match=rf"vowel/{split}\.csv is damaged: .*{message}"):
        datasets.load("vowel")


def test_it_is_not_cut():
    with pytest.raises(ValueError, match=r"first is \(9, 9, 9\), but vowel is used whole"):
        datasets.load("vowel", first=(9, 9, 9))


def test_without_files_and_without_network_it_is_said_where_to_put_them(nowhere):
    with pytest.raises(FileNotFoundError, match=r"\(no network\): put vowel/train\.csv and vowel/test\.csv into"):
        datasets.load("vowel")


def table(names: bool, shuffled: bool) -> pandas.DataFrame:
    """OpenML's table: both splits, names or numbers, numbers as text or not."""
    rows = pandas.concat([held("train"), held("test")])
    rows = rows.sample(frac=1, random_state=0) if shuffled else rows
    frame = rows[COLUMNS[3:]].set_axis([f"Feature_{i}" for i in range(10)], axis=1)
    for column, source, known in (
        ("Class", "class", vowel.CLASSES),
        ("Sex", "sex", vowel.SEXES),
        ("Speaker_Number", "speaker", vowel.SPEAKERS),
    ):
        frame[column] = [known[i] for i in rows[source]] if names else rows[source].astype(float)
    return frame


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("shuffled", [True, False])
def test_openmls_table_is_the_same_set(names, shuffled, nowhere, monkeypatch):
    asked = given.openml_answers(monkeypatch, table(names, shuffled))
    found, again = datasets.load("vowel"), datasets.load("vowel")
    assert same(found, again) and asked == [307]  # the second finds the files of the first
    monkeypatch.setenv("SURVEY_DATA", str(ROOT))
    published = datasets.load("vowel")
    for a, b in (
        (found.train, published.train),
        (found.validation, published.validation),
        (found.test, published.test),
    ):
        ours, theirs = (
            {(*row.tolist(), int(label)) for row, label in zip(x.images, x.labels, strict=True)} for x in (a, b)
        )
        assert ours == theirs and len(a) == len(b)
    assert shuffled or same(found, published)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[1:], "does not hold the published train rows"),
        (lambda t: t.assign(Feature_3=t.Feature_3 + 0.001), "does not hold the published"),
        (lambda t: t.assign(Sex="Other"), "holds 'Other': accepted are Male, Female"),
        (lambda t: t.drop(columns="Feature_9"), "not Feature_9"),
        (lambda t: t.assign(Feature_0="x"), "could not convert"),
    ],
)
def test_another_table_is_refused_and_nothing_is_written(change, message, nowhere, monkeypatch):
    given.openml_answers(monkeypatch, change(table(True, False)))
    with pytest.raises(FileNotFoundError, match=message):
        datasets.load("vowel")
    assert not list(nowhere.rglob("*.csv"))
