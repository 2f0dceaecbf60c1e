"""MONK's problems: the published samples, and samples drawn from their rules."""

from pathlib import Path

import numpy as np
import torch

from lib.datasets import Dataset, Split, places
from lib.datasets.splits import numbers

VALUES = (3, 3, 2, 3, 4, 2)  # attribute a1 has the values 1, 2, 3; ...
ROWS = {"monks-1": 124, "monks-2": 169, "monks-3": 122}  # rows, of which ...
NOISE = {"monks-1": 0, "monks-2": 0, "monks-3": 6}  # ... so many bear the wrong label


def published(name: str) -> Dataset:
    """``monks/<name>_train.csv`` and ``_test.csv``, columns class, a1 to a6, id (the row's place in the full grid)."""
    tried = [root / "monks" for root in places.roots()]
    for folder in tried:
        files = {split: folder / f"{name}_{split}.csv" for split in ("train", "test")}
        if all(file.is_file() for file in files.values()):
            break
    else:
        raise FileNotFoundError(
            f"the data set {name!r} is not in {', '.join(dict.fromkeys(map(str, tried)))}: put {name}_train.csv and"
            f" {name}_test.csv (columns class,a1,a2,a3,a4,a5,a6,id) into monks below the folder that SURVEY_DATA names"
        )
    splits = []
    for split, rows, wrong in (("train", ROWS[name], NOISE[name]), ("test", 432, 0)):
        rows_in_grid, labels = read(files[split])
        different, against = len(set(rows_in_grid.tolist())), int((labels != rule(name)[rows_in_grid]).sum())
        if (len(rows_in_grid), different, against) != (rows, rows, wrong):
            raise ValueError(
                f"{files[split]} is damaged: it holds {len(rows_in_grid)} rows, {different} of them different"
                f" and {against} against the rule; accepted are {rows} different rows, {wrong} against it"
            )
        splits.append(coded(rows_in_grid, labels))
    return named(name, f"MONK's problem {name[6]}, the published samples", *splits)


def read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The rows' places in the grid (from 0) and their labels; each row must agree with its own ``id``."""
    header, *lines = file.read_text("utf-8", errors="replace").split() or [""]
    if header != "class,a1,a2,a3,a4,a5,a6,id":
        raise ValueError(f"{file} is damaged: its first line is {header!r}, accepted is 'class,a1,a2,a3,a4,a5,a6,id'")
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
    """As many training rows as published, and as many wrong labels, but drawn here: never the published sample."""
    problem = name.removesuffix("-rule")
    labels, random = rule(problem), np.random.RandomState(0)
    drawn = random.permutation(432)[: ROWS[problem]]
    wrong = np.arange(len(drawn)) < NOISE[problem]
    train = coded(drawn, np.where(wrong, 1 - labels[drawn], labels[drawn]))
    source = f"drawn from the rule of MONK's problem {problem[6]}; not the published sample"
    return named(name, source, train, coded(np.arange(432), labels))


def rule(problem: str) -> np.ndarray:
    """The right labels of the 432 rows of the grid."""
    a1, a2, _, a4, a5, _ = grid = np.indices(VALUES).reshape(6, -1) + 1
    return {
        "monks-1": (a1 == a2) | (a5 == 1),
        "monks-2": (grid == 1).sum(axis=0) == 2,
        "monks-3": ((a5 == 3) & (a4 == 1)) | ((a5 != 4) & (a2 != 3)),
    }[problem].astype(int)


def coded(rows_in_grid: np.ndarray, labels: np.ndarray) -> Split:
    """The usual coding: one input for each value of each attribute, 3 + 3 + 2 + 3 + 4 + 2 = 17 inputs of 0 or 1."""
    values = np.stack(np.unravel_index(rows_in_grid, VALUES), axis=1)
    inputs = [np.eye(n, dtype=np.float32)[values[:, j]] for j, n in enumerate(VALUES)]
    return Split(torch.from_numpy(np.concatenate(inputs, axis=1)), torch.from_numpy(labels).long())


def named(name: str, source: str, train: Split, test: Split) -> Dataset:
    return Dataset(name, source, train, train.first(0), test, numbers(2))
