"""MONK's problems: the published samples and those drawn from the rules."""

from pathlib import Path

import given
import pandas
import pytest
import torch
from small_sets import ROOT, same

from lib import datasets

needs_monks = pytest.mark.skipif(not (ROOT / "monks").is_dir(), reason="SURVEY_DATA holds no MONK's problems")


def rule(name: str, a: list[int]) -> int:
    """MONK's problems as Thrun et al. state them; ``a[0]`` is unused."""
    if name.startswith("monks-1"):
        return int(a[1] == a[2] or a[5] == 1)
    if name.startswith("monks-2"):
        return int(sum(value == 1 for value in a[1:]) == 2)
    return int((a[5] == 3 and a[4] == 1) or (a[5] != 4 and a[2] != 3))


def attributes(row: torch.Tensor) -> list[int]:
    """The six attributes of a coded row; fails where the coding is not one of each attribute."""
    parts = row.split([3, 3, 2, 3, 4, 2])
    assert all(part.sum() == 1 and part.max() == 1 for part in parts)
    return [0, *(int(part.argmax()) + 1 for part in parts)]


def wrong(name: str, split: datasets.Split) -> int:
    return sum(rule(name, attributes(row)) != label for row, label in zip(split.images, split.labels, strict=True))


def rows(found: datasets.Split) -> set[tuple[int, ...]]:
    return {tuple(attributes(row)) for row in found.images}


MONKS = ("monks-1", "monks-2", "monks-3")
SIZES = {"monks-1": (124, 0), "monks-2": (169, 0), "monks-3": (122, 6)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_monks) for name in MONKS] + [f"{name}-rule" for name in MONKS]
)
def test_monks_problems_follow_their_rules(name):
    found, (n, noise) = datasets.load(name), SIZES[name[:7]]
    assert [found.train.images.shape, found.validation.images.shape, found.test.images.shape] == [
        (n, 17),
        (0, 17),
        (432, 17),
    ]
    assert found.train.images.dtype == torch.float32 and found.train.labels.dtype == torch.int64
    assert found.classes == ("0", "1") and found.name == name
    assert len(rows(found.train)) == n and len(rows(found.test)) == 432  # no row twice; the test is the full grid
    assert wrong(name, found.test) == 0 and wrong(name, found.train) == noise
    assert ("not the published sample" in found.source) == name.endswith("-rule")
    assert same(found, datasets.load(name))


@needs_monks
@pytest.mark.parametrize(("name", "positive"), [("monks-1", (62, 216)), ("monks-2", (64, 142)), ("monks-3", (60, 228))])
def test_monks_problems_are_the_published_samples(name, positive):
    found = datasets.load(name)
    assert (int(found.train.labels.sum()), int(found.test.labels.sum())) == positive
    lines = (ROOT / "monks" / f"{name}_train.csv").read_text().split()[1:]
    expected = [[int(value) for value in line.split(",")] for line in lines]
    ours = [
        [int(label), *attributes(row)[1:]] for row, label in zip(found.train.images, found.train.labels, strict=True)
    ]
    assert ours == [row[:7] for row in expected]


def monks_files(root: Path, name: str) -> dict[str, list[str]]:
    """The set by rule, written in the form of the published files; returns the lines of both."""
    found, written = datasets.load(f"{name}-rule"), {}
    (root / "monks").mkdir(exist_ok=True)
    for split in ("train", "test"):
        part, lines = getattr(found, split), ["class,a1,a2,a3,a4,a5,a6,id"]
        for row, label in zip(part.images, part.labels, strict=True):
            a = attributes(row)[1:]
            place = 0
            for value, many in zip(a, (3, 3, 2, 3, 4, 2), strict=True):
                place = place * many + value - 1
            lines.append(",".join(map(str, [int(label), *a, place + 1])))
        written[split] = lines
        (root / "monks" / f"{name}_{split}.csv").write_text("\r\n".join(lines) + "\r\n")
    return written


@pytest.mark.parametrize("name", MONKS)
def test_monks_files_are_read_in_their_order(name, nowhere):
    monks_files(nowhere, name)
    found = datasets.load(name)
    assert same(found, datasets.load(f"{name}-rule")) and found.name == name and "published" in found.source


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "rows, .*; accepted are .* different rows"),
        (lambda lines: [*lines[:-1], lines[1]], "of them different"),
        (lambda lines: lines[1:], "its first line is"),
        (lambda lines: [], "its first line is ''"),
        (lambda lines: lines[:1], "holds 0 rows"),
        (lambda lines: [*lines[:5], lines[5][2:], *lines[6:]], "line 6 is"),
        (lambda lines: [*lines[:5], "x" + lines[5][1:], *lines[6:]], "line 6 is 'x,"),
        (lambda lines: [*lines[:5], "2" + lines[5][1:], *lines[6:]], "line 6 is '2,.*a class of 0 or 1"),
        (lambda lines: [*lines[:5], lines[5][:2] + "9" + lines[5][3:], *lines[6:]], "from 1 to 3, 3, 2, 3, 4, 2"),
        (lambda lines: [*lines[:5], lines[5] + "9", *lines[6:]], "the place of these in the full grid"),
        (lambda lines: [*lines[:5], str(1 - int(lines[5][0])) + lines[5][1:], *lines[6:]], "against the rule"),
    ],
)
def test_a_damaged_monks_file_is_named(split, change, message, nowhere):
    lines = monks_files(nowhere, "monks-1")[split]
    (nowhere / "monks" / f"monks-1_{split}.csv").write_text("\n".join(change(lines)))
    with pytest.raises(ValueError, match=rf"monks-1_{split}\.csv is damaged: .*{message}"):
        datasets.load("monks-1")


def test_another_digit_anywhere_in_a_monks_file_is_an_error(nowhere):
    monks_files(nowhere, "monks-2")
    file = nowhere / "monks" / "monks-2_train.csv"
    content = file.read_text()
    for at in range(content.index("\n") + 1, len(content), 23):
        if content[at].isdigit():
            file.write_text(content[:at] + str((int(content[at]) + 1) % 10) + content[at + 1 :])
            with pytest.raises(ValueError, match=r"monks-2_train\.csv is damaged"):
                datasets.load("monks-2")


def test_monks_problems_that_are_not_there_are_not_replaced(nowhere):
    message = (
        r"'monks-3' is in none of .* \(no network\): put monks/monks-3_train\.csv and monks/monks-3_test\.csv into"
    )
    with pytest.raises(FileNotFoundError, match=message):
        datasets.load("monks-3")


@pytest.mark.parametrize("name", ["monks-1", "monks-3-rule"])
def test_monks_problems_are_not_cut(name):
    with pytest.raises(ValueError, match=f"first is \\(9, 9, 9\\), but {name} is used whole"):
        datasets.load(name, first=(9, 9, 9))


# -- OpenML ------------------------------------------------------------------------------------------------------------


def table(name: str, test_first: bool = False) -> pandas.DataFrame:
    """OpenML's table of a problem: training and test rows, one after the other, as text."""
    parts = [pandas.read_csv(ROOT / "monks" / f"{name}_{split}.csv", dtype=str) for split in ("train", "test")]
    rows = pandas.concat(parts[::-1] if test_first else parts)
    return rows[[f"a{i}" for i in range(1, 7)] + ["class"]].set_axis(
        [*(f"attr{i}" for i in range(1, 7)), "class"], axis=1
    )


@needs_monks
@pytest.mark.parametrize("name", MONKS)
@pytest.mark.parametrize("test_first", [False, True])
def test_openmls_tables_are_the_published_files(name, test_first, nowhere, monkeypatch):
    asked = given.openml_answers(monkeypatch, table(name, test_first))
    found = datasets.load(name)
    assert same(found, datasets.load(name)) and asked == [332 + int(name[6])]
    for split in ("train", "test"):
        ours = (nowhere / "data" / "monks" / f"{name}_{split}.csv").read_text()
        assert ours == (ROOT / "monks" / f"{name}_{split}.csv").read_text()


@needs_monks
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.iloc[1:],
        lambda t: t.iloc[:-1],
        lambda t: pandas.concat([t, t.iloc[:1]]),
        lambda t: t.sample(frac=1, random_state=0),
        lambda t: t.assign(**{"class": [str(1 - int(t["class"].iloc[0])), *t["class"].iloc[1:]]}),
        lambda t: t.assign(attr5=["4" if t["attr5"].iloc[0] != "4" else "3", *t["attr5"].iloc[1:]]),
        lambda t: t.assign(attr1="4"),
        lambda t: t.assign(attr1="round"),
        lambda t: t.drop(columns="attr6"),
        lambda t: t.iloc[:0],
    ],
)
def test_another_table_is_refused_and_nothing_is_written(change, nowhere, monkeypatch):
    given.openml_answers(monkeypatch, change(table("monks-1")))
    with pytest.raises(FileNotFoundError, match=r"'monks-1' is in none of .* could not be downloaded"):
        datasets.load("monks-1")
    assert not list(nowhere.rglob("*.csv"))
