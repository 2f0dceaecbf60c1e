"""What the families share: cutting samples into splits, taking a part of a set, and describing its source."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from lib.datasets import Dataset, Split


def shuffled(images: Tensor, labels: Tensor, *, shares: tuple[float, float]) -> tuple[Split, Split, Split]:
    """Cut samples into training, validation and test splits, by one fixed permutation.

    images: (n, ...).
    labels: (n,).
    shares: of the training and the validation split; the test split is the rest.

    >>> from lib.datasets import load
    >>> data = load("digits").train
    >>> [len(split) for split in shuffled(data.images, data.labels, shares=(0.5, 0.25))]
    [539, 269, 270]
    """
    parts = permuted(len(labels), shares=shares)
    return tuple(Split(images[part], labels[part]) for part in parts)  # type: ignore[return-value]


def permuted(n: int, *, shares: tuple[float, float]) -> list[np.ndarray]:
    """Cut a fixed permutation of n samples into three parts.

    n: number of samples.
    shares: of the first and the second part; the third is the rest.

    Returns the numbers of the samples in each part.

    >>> [len(part) for part in permuted(100, shares=(0.8, 0.1))]
    [80, 10, 10]
    """
    cuts = [round(shares[0] * n), round((shares[0] + shares[1]) * n)]
    return np.split(np.random.RandomState(0).permutation(n), cuts)


def rounds(labels: np.ndarray) -> np.ndarray:
    """Return a fixed order in rounds of one sample of each class, so that any first n are as balanced as possible.

    labels: (n,), equally many of each class.

    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> sorted(labels[rounds(labels)[:2]].tolist())
    [0, 1]
    """
    random = np.random.RandomState(0)
    rounds = np.stack([random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)], axis=1)
    return np.take_along_axis(rounds, random.random_sample(rounds.shape).argsort(axis=1), axis=1).ravel()


def cut(found: Dataset, first: tuple[int, ...] | None) -> Dataset:
    """Take the first samples of each split of a set whose splits are in no particular order.

    found: the whole set.
    first: the largest number of samples of each split, None for all.
    """
    whole = (found.train, found.validation, found.test)
    parts = [split.first(n) for split, n in zip(whole, first or map(len, whole), strict=True)]
    source = describe(found.source, [len(split) for split in whole], [len(part) for part in parts])
    return replace(found, source=source, train=parts[0], validation=parts[1], test=parts[2])


def describe(source: str, whole: list[int], parts: list[int], samples: str = "images") -> str:
    """Return the source of a set and, if only a part of it was loaded, the sizes of the whole splits.

    source: of the whole set.
    whole: sizes of the three splits.
    parts: sizes of what was loaded.
    samples: what to call them, default "images".

    >>> describe("A set", [100, 20, 30], [10, 20, 30])
    'A set; a fixed part of its 100 training, 20 validation and 30 test images'
    """
    if whole == parts:
        return source
    train, validation, test = whole
    return f"{source}; a fixed part of its {train:,} training, {validation:,} validation and {test:,} test {samples}"


def numbers(n: int) -> tuple[str, ...]:
    """Return the class names "0", "1", ...

    n: number of classes.
    """
    return tuple(str(i) for i in range(n))
