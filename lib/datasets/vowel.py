"""Deterding's vowels: eleven vowels of British English, spoken by fifteen speakers."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from lib.datasets import Dataset, Split, openml, places

CLASSES = ("hid", "hId", "hEd", "hAd", "hYd", "had", "hOd", "hod", "hUd", "hud", "hed")
SPEAKERS = (
    *("Andrew", "Bill", "David", "Mark", "Jo", "Kate", "Penny", "Rose"),
    *("Mike", "Nick", "Rich", "Tim", "Sarah", "Sue", "Wendy"),
)
SEXES = ("Male", "Female")
VALIDATION = (6, 7)  # speakers of the published training set, which are 0 to 7; the test set has 8 to 14
HEADER = "class,speaker,sex," + ",".join(f"x{i}" for i in range(1, 11))
OPENML = 307
# SHA-256 of a file's rows, sorted: sources differ in their order and in the sign of a zero.
SHA256 = {
    "train": "8368f8364434e7db43bc0c48940ab9a64ca9a19f0802d9ce56302cf02f4e4d49",
    "test": "d57c1c91d70b49472449064c11e6640f93d713994f6f27e6ae9dc4d46e0ae6aa",
}


def load() -> Dataset:
    """Load 396 / 132 / 462 rows (10,) of log area ratios, by speakers 0 to 5, 6 and 7, 8 to 14.

    The published training set has the speakers 0 to 7. Two of them are held out for validation, since the test set has
    only new speakers as well. Speaker and sex are not inputs.

    Raises FileNotFoundError if the set is missing and cannot be downloaded, ValueError if it is damaged.
    """
    train, test = (read(file) for file in places.obtain("vowel", download))
    held_out = np.isin(train[:, 1], VALIDATION)
    splits = []
    for rows in (train[~held_out], train[held_out], test):
        splits.append(Split(torch.from_numpy(rows[:, 3:]).float(), torch.from_numpy(rows[:, 0]).long()))
    source = "Deterding's vowels, the published rows; speakers 6 and 7 of the training set are the validation split"
    return Dataset("vowel", source, splits[0], splits[1], splits[2], CLASSES)


def read(file: Path) -> np.ndarray:
    """Return the rows of ``train.csv`` or ``test.csv``, (n, 13): class, speaker, sex, and ten inputs.

    file: of one of these names.

    Raises ValueError if it does not hold the published rows.
    """
    header, *lines = file.read_text("utf-8", errors="replace").split() or [""]
    if header != HEADER:
        raise ValueError(f"{file} is damaged: its first line is {header!r}, accepted is {HEADER!r}")
    if (found := digest(lines)) != (expected := SHA256[file.stem]):
        raise ValueError(f"{file} is damaged: the SHA-256 of its rows is {found[:12]}…, accepted is {expected[:12]}…")
    return np.array([line.split(",") for line in lines], dtype=float)


def digest(lines: list[str]) -> str:
    """Return the SHA-256 of the rows, sorted and without the signs of zeros.

    lines: of a file, without its header.
    """
    rows = sorted(",".join("0.000" if value == "-0.000" else value for value in line.split(",")) for line in lines)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def download(home: Path) -> None:
    """Download both files from OpenML, whose table names speakers, sexes and vowels.

    home: the data folder.
    """
    columns = ["Class", "Speaker_Number", "Sex", *(f"Feature_{i}" for i in range(10))]
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for vowel, speaker, sex, *inputs in openml.table(OPENML, columns):
        numbers = [_number(vowel, CLASSES), _number(speaker, SPEAKERS), _number(sex, SEXES)]
        line = ",".join([*map(str, numbers), *(f"{float(value):.3f}" for value in inputs)])
        lines["train" if numbers[1] < 8 else "test"].append(line)
    for split, expected in SHA256.items():
        if digest(lines[split]) != expected:
            raise ValueError(f"OpenML's table of vowels does not hold the published {split} rows")
    for split, rows in lines.items():
        with places.whole(home / "vowel" / f"{split}.csv") as file:
            file.write_text("\n".join([HEADER, *rows]) + "\n")


def _number(value: str, names: tuple[str, ...]) -> int:
    """The place of a name, or the number itself if the table holds numbers."""
    if value in names:
        return names.index(value)
    if value.removesuffix(".0") not in map(str, range(len(names))):
        raise ValueError(f"OpenML's table of vowels holds {value!r}: accepted are {', '.join(names)}")
    return int(float(value))
