"""MONK's problems: the published samples, and samples drawn from their rules."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lib.datasets import Dataset, Split, openml, places
from lib.datasets.splits import numbers

VALUES = (3, 3, 2, 3, 4, 2)  # attribute a1 has the values 1, 2, 3; ...
ROWS = {"monks-1": 124, "monks-2": 169, "monks-3": 122}  # training rows
NOISE = {"monks-1": 0, "monks-2": 0, "monks-3": 6}  # how many of them have the wrong label


OPENML = {"monks-1": 333, "monks-2": 334, "monks-3": 335}  # training and test rows of a problem in one table
HEADER = "class,a1,a2,a3,a4,a5,a6,id"
# SHA-256 of the published training rows, sorted: another sample that obeys the rule is not accepted.
TRAIN_SHA256 = {
    "monks-1": "af2c08ee39cec876351217df04bc177204eeb97b7a3b4d075b019357d65e54af",
    "monks-2": "07f9275accee7316e16a518c0f8a93ce90cea118eb8b8c45992b0054211abf7f",
    "monks-3": "4d3416ab0a6fc21d5ddaa41b2955da0da0a75cbc765a869cf97156be7c544527",
}


def published(name: str) -> Dataset:
    """Load the published samples of a problem: rows (17,), with all 432 possible rows as the test split.

    The files are ``monks/<name>_train.csv`` and ``_test.csv``, with the columns class, a1 to a6, and id, the row's
    place in the grid of all rows.

    name: "monks-1", "monks-2" or "monks-3".

    Raises FileNotFoundError if the set is missing and cannot be downloaded, ValueError if it is damaged.
    """
    splits = []
    for file, rows, wrong in zip(
        places.obtain(name, partial(download, name)), (ROWS[name], 432), (NOISE[name], 0), strict=True
    ):
        rows_in_grid, labels = read(file)
        different, against = len(set(rows_in_grid.tolist())), int((labels != rule(name)[rows_in_grid]).sum())
        if (len(rows_in_grid), different, against) != (rows, rows, wrong):
            raise ValueError(
                f"{file} is damaged: it holds {len(rows_in_grid)} rows, {different} of them different"
                f" and {against} against the rule; accepted are {rows} different rows, {wrong} against it"
            )
        splits.append(coded(rows_in_grid, labels))
    return named(name, f"MONK's problem {name[6]}, the published samples", *splits)


def download(name: str, home: Path) -> None:
    """Download both files from OpenML's table of the problem, with rows in the order of their ids, as published.

    name: "monks-1", "monks-2" or "monks-3".
    home: the data folder.
    """
    rows = openml.table(OPENML[name], ["class", *(f"attr{i}" for i in range(1, 7))])
    try:
        values = np.array(rows, dtype=float).reshape(-1, 7).astype(int)
        rows_in_grid = np.ravel_multi_index(tuple(values[:, 1:].T - 1), VALUES)
    except ValueError as error:
        raise ValueError(f"OpenML's table of {name} holds other values than MONK's problems: {error}") from error
    # The test set is the part that is the full grid; it may come first or last in the table.
    for test in (slice(-432, None), slice(432)):
        train = np.setdiff1d(np.arange(len(rows)), np.arange(len(rows))[test])
        lines = {"train": lines_of(rows_in_grid[train], values[train, 0])}
        lines["test"] = lines_of(rows_in_grid[test], values[test, 0])
        right = lines_of(np.arange(432), rule(name)), TRAIN_SHA256[name]
        if (lines["test"], hashlib.sha256("\n".join(lines["train"]).encode()).hexdigest()) == right:
            break
    else:
        raise ValueError(f"OpenML's table of {name} does not hold the published training rows and the full grid")
    for split, found in lines.items():
        with places.whole(home / "monks" / f"{name}_{split}.csv") as file:
            file.write_text("\n".join([HEADER, *found]) + "\n")


def lines_of(rows_in_grid: np.ndarray, labels: np.ndarray) -> list[str]:
    """Return the lines of a file, in the order of the rows' places in the grid.

    rows_in_grid: place of each row, from 0.
    labels: of each row.
    """
    order = np.argsort(rows_in_grid, kind="stable")
    values = np.stack(np.unravel_index(rows_in_grid, VALUES), axis=1) + 1
    return [",".join(map(str, [labels[i], *values[i], rows_in_grid[i] + 1])) for i in order]


def read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows' places in the grid (from 0) and their labels; each row must agree with its own ``id``.

    file: in the published form.

    Raises ValueError for another form.
    """
    header, *lines = file.read_text("utf-8", errors="replace").split() or [""]
    if header != HEADER:
        raise ValueError(f"{file} is damaged: its first line is {header!r}, accepted is {HEADER!r}")
    grid = np.indices(VALUES).reshape(6, -1).T + 1
    rows = {",".join(map(str, [*row, i + 1])): i for i, row in enumerate(grid.tolist())}
    for number, line in enumerate(lines, start=2):
        if line[:2] not in ("0,", "1,") or line[2:] not in rows:
            raise ValueError(
                f"{file} is damaged: line {number} is {line!r}; accepted are a class of 0 or 1, the values of a1 to a6"
                f" (from 1 to {', '.join(map(str, VALUES))}) and the place of these in the full grid"
            )
    return np.array([rows[line[2:]] for line in lines], dtype=int), np.array([int(line[0]) for line in lines])


def by_rule(name: str) -> Dataset:
    """Draw a sample from a problem's rule, with as many training rows and wrong labels as published.

    It is always the same sample, and never the published one. The test split has all 432 rows.

    name: "monks-1-rule", "monks-2-rule" or "monks-3-rule".
    """
    problem = name.removesuffix("-rule")
    labels, random = rule(problem), np.random.RandomState(0)
    drawn = random.permutation(432)[: ROWS[problem]]
    wrong = np.arange(len(drawn)) < NOISE[problem]
    train = coded(drawn, np.where(wrong, 1 - labels[drawn], labels[drawn]))
    source = f"drawn from the rule of MONK's problem {problem[6]}; not the published sample"
    return named(name, source, train, coded(np.arange(432), labels))


def rule(problem: str) -> np.ndarray:
    """Return the right labels of the 432 rows of the grid.

    problem: "monks-1", "monks-2" or "monks-3".
    """
    a1, a2, _, a4, a5, _ = grid = np.indices(VALUES).reshape(6, -1) + 1
    return {
        "monks-1": (a1 == a2) | (a5 == 1),
        "monks-2": (grid == 1).sum(axis=0) == 2,
        "monks-3": ((a5 == 3) & (a4 == 1)) | ((a5 != 4) & (a2 != 3)),
    }[problem].astype(int)


def coded(rows_in_grid: np.ndarray, labels: np.ndarray) -> Split:
    """Encode rows as inputs of 0 or 1, one for each value of each attribute: 3 + 3 + 2 + 3 + 4 + 2 = 17.

    rows_in_grid: place of each row, from 0.
    labels: of each row.
    """
    values = np.stack(np.unravel_index(rows_in_grid, VALUES), axis=1)
    inputs = [np.eye(n, dtype=np.float32)[values[:, j]] for j, n in enumerate(VALUES)]
    return Split(torch.from_numpy(np.concatenate(inputs, axis=1)), torch.from_numpy(labels).long())


def named(name: str, source: str, train: Split, test: Split) -> Dataset:
    """Make a data set of both splits; the validation split is empty.

    name: of the set.
    source: where the rows came from.
    train, test: the splits.
    """
    return Dataset(name, source, train, train.first(0), test, numbers(2))
