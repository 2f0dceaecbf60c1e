"""Candidates as choices, one after another: what a controller learns to make."""

import dataclasses
import itertools
import math
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lib.search.history import Space

C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)


@runtime_checkable
class Choices(Protocol[C_co]):
    """Choices that make a candidate."""

    @property
    def options(self) -> tuple[tuple[Hashable, ...], ...]:
        """The options of each choice. Choices with the same options mean the same thing in different places."""

    def candidate(self, numbers: Sequence[int]) -> C_co:
        """Return the candidate that these choices make.

        numbers: one for each choice, the index of the chosen option.
        """

    def allowed(self, before: Tensor) -> Tensor | None:
        """Say which options of the next choice lead to a candidate; None where all of them do.

        before: (n, choices so far) numbers.

        Returns (n, options) bool.
        """


class Product(Generic[C]):
    """A search space in which every combination of options is a candidate."""

    @property
    @abstractmethod
    def options(self) -> tuple[tuple[Hashable, ...], ...]:
        """The options of each choice."""

    @abstractmethod
    def candidate(self, numbers: Sequence[int]) -> C:
        """Return the candidate that these choices make.

        numbers: one for each choice.
        """

    @abstractmethod
    def numbers(self, candidate: C) -> tuple[int, ...]:
        """Return the choices that make a candidate.

        candidate: of this space.
        """

    def allowed(self, before: Tensor) -> Tensor | None:
        """Return None: all options of the next choice lead to a candidate.

        before: (n, choices so far) numbers.
        """
        return None

    @property
    def size(self) -> int:
        """How many candidates there are; too many for ``len``."""
        return math.prod(map(len, self.options))

    def __iter__(self) -> Iterator[C]:
        return map(self.candidate, itertools.product(*(range(len(options)) for options in self.options)))

    def sample(self, random: np.random.Generator) -> C:
        """Draw a candidate; all are equally likely.

        random: numpy's generator.
        """
        return self.candidate([int(random.integers(len(options))) for options in self.options])

    def mutated(self, candidate: C, random: np.random.Generator) -> C:
        """Draw a neighbor: another option in one choice; all choices that have one are equally likely.

        candidate: of this space.
        random: numpy's generator.

        Raises ValueError where no choice has a second option.
        """
        numbers = list(self.numbers(candidate))
        open_choices = [step for step, options in enumerate(self.options) if len(options) > 1]
        if not open_choices:
            raise ValueError("no candidate has a neighbor: no choice has a second option")
        step = open_choices[random.integers(len(open_choices))]
        shift = int(random.integers(1, len(self.options[step])))
        numbers[step] = (numbers[step] + shift) % len(self.options[step])
        return self.candidate(numbers)


class Listed(Generic[C]):
    """A list of candidates as choices: the values that they are made of, one after another.

    A candidate is taken apart into the fields of its dataclass and the items of its tuples. Only choices that lead to a
    candidate of the list are allowed. If candidates differ in length, the short ones choose ``...`` for what they do
    not have.

    candidates: values; those that are equal count once.

    Raises ValueError for an empty list, and for candidates that differ but are made of the same values.

    >>> choices = Listed([("conv", 3), ("conv", 5), ("pool", 3)])
    >>> choices.options, choices.candidate((1, 0))
    ((('conv', 'pool'), (3, 5)), ('pool', 3))
    >>> choices.allowed(torch.tensor([[1]]))  # a pool of 5 is not in the list
    tensor([[ True, False]])
    """

    def __init__(self, candidates: Iterable[C]) -> None:
        listed = list(dict.fromkeys(candidates))
        if not listed:
            raise ValueError("the space has no candidate: at least one is needed")
        rows = [tuple(parts(candidate)) for candidate in listed]
        width = max(map(len, rows))
        padded = [row + (...,) * (width - len(row)) for row in rows]
        order = {value: i for i, value in enumerate(dict.fromkeys(itertools.chain.from_iterable(padded)))}
        # in one order everywhere, so that the same options are recognized at another place
        columns = [sorted(set(column), key=order.__getitem__) for column in zip(*padded, strict=True)]
        self.options: tuple[tuple[Hashable, ...], ...] = tuple(map(tuple, columns))
        places = [{value: i for i, value in enumerate(options)} for options in self.options]
        numbers = [tuple(place[value] for place, value in zip(places, row, strict=True)) for row in padded]
        self._candidates = dict(zip(numbers, listed, strict=True))
        self._numbers = dict(zip(listed, numbers, strict=True))
        if len(self._candidates) < len(listed):
            first = next(c for n, c in zip(numbers, listed, strict=True) if self._candidates[n] != c)
            raise ValueError(f"{first!r} and another candidate are made of the same values: no choice tells them apart")
        self._rows = torch.tensor(numbers).reshape(len(numbers), width)
        self._whole = len(numbers) == math.prod(map(len, self.options))

    def candidate(self, numbers: Sequence[int]) -> C:
        """Return the candidate that these choices make.

        numbers: one for each choice.

        Raises ValueError for choices that make none.
        """
        try:
            return self._candidates[tuple(map(int, numbers))]
        except KeyError:
            raise ValueError(f"the choices {tuple(numbers)} make no candidate of the list") from None

    def numbers(self, candidate: C) -> tuple[int, ...]:
        """Return the choices that make a candidate.

        candidate: of the list.

        Raises ValueError for one that is not in the list.
        """
        if candidate not in self._numbers:
            raise ValueError(f"{candidate!r} is not in the list")
        return self._numbers[candidate]

    def allowed(self, before: Tensor) -> Tensor | None:
        """Say which options of the next choice lead to a candidate; None where all of them do.

        before: (n, choices so far) numbers.

        Returns (n, options) bool.
        """
        if self._whole:
            return None
        step = before.shape[1]
        rows = self._rows.to(before.device)
        left = (before[:, None] == rows[:, :step]).all(2)  # (n, candidates): those that begin so
        options = torch.nn.functional.one_hot(rows[:, step], len(self.options[step]))
        return left.float() @ options.float() > 0


def parts(candidate: object) -> Iterator[Hashable]:
    """Take a candidate apart: the fields of dataclasses and the items of tuples, one after another.

    candidate: a value.

    >>> list(parts((("conv", 3), 0.5)))
    ['conv', 3, 0.5]
    """
    if dataclasses.is_dataclass(candidate) and not isinstance(candidate, type):
        for field in dataclasses.fields(candidate):
            yield from parts(getattr(candidate, field.name))
    elif isinstance(candidate, tuple | list):
        for item in candidate:
            yield from parts(item)
    else:
        yield candidate


def choices_of(space: Space[C]) -> Choices[C]:
    """Return the choices of a space: its own, or those of the list of its candidates.

    space: one that says which choices make its candidates (:class:`Choices`), or one that can list all of them.

    Raises ValueError for a space without a candidate, and for one that can do neither.

    >>> from lib.search.chains import Chains
    >>> choices_of(Chains(positions=3, operations=("conv3", "skip"))).options
    (('conv3', 'skip'), ('conv3', 'skip'), ('conv3', 'skip'))
    """
    if isinstance(space, Choices):
        return space
    try:
        candidates = iter(space)
    except TypeError as error:
        raise ValueError(
            f"{type(space).__name__} neither says which choices make a candidate nor lists its candidates: {error}"
        ) from error
    return Listed(candidates)
