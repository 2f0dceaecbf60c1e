"""What the families share: dividing samples into splits, cutting a part, and saying so."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from lib.datasets import Dataset, Split


def shuffled(images: Tensor, labels: Tensor, *, shares: tuple[float, float]) -> tuple[Split, Split, Split]:
    """One fixed permutation, cut into train, validation and the rest; every seed sees the same splits."""
    parts = permuted(len(labels), shares=shares)
    return tuple(Split(images[part], labels[part]) for part in parts)  # type: ignore[return-value]


def permuted(n: int, *, shares: tuple[float, float]) -> list[np.ndarray]:
    """A fixed permutation of n samples, cut after the shares of the first and the second part."""
    cuts = [round(shares[0] * n), round((shares[0] + shares[1]) * n)]
    return np.split(np.random.RandomState(0).permutation(n), cuts)


def rounds(labels: np.ndarray) -> np.ndarray:
    """A fixed order in rounds of one sample of each class: its first n are as balanced as n samples can be."""
    random = np.random.RandomState(0)
    rounds = np.stack([random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)], axis=1)
    return np.take_along_axis(rounds, random.random_sample(rounds.shape).argsort(axis=1), axis=1).ravel()


def cut(found: Dataset, first: tuple[int, ...] | None) -> Dataset:
    """The first images of a set whose splits are in no order."""
    whole = (found.train, found.validation, found.test)
    parts = [split.first(n) for split, n in zip(whole, first or map(len, whole), strict=True)]
    source = describe(found.source, [len(split) for split in whole], [len(part) for part in parts])
    return replace(found, source=source, train=parts[0], validation=parts[1], test=parts[2])


def describe(source: str, whole: list[int], parts: list[int], samples: str = "images") -> str:
    """The source of a set and, where only parts of its three splits were loaded, the sizes of the whole ones."""
    if whole == parts:
        return source
    train, validation, test = whole
    return f"{source}; a fixed part of its {train:,} training, {validation:,} validation and {test:,} test {samples}"


def numbers(n: int) -> tuple[str, ...]:
    """Class names "0", "1", ..."""
    return tuple(str(i) for i in range(n))
