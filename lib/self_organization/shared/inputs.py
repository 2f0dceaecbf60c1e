"""What every estimator checks before it changes anything: its parameters, its seed, its samples."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

LARGEST = {"float32": 1e18, "float64": 1e150}  # squares of such numbers, and sums of many of them, are finite


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """Refuse a value that is not a whole number, or is too small.

    name: the parameter, as the user writes it.
    value: what was given; numpy's whole numbers are accepted, True and 2.0 are not.
    least: the smallest number that is accepted.

    Returns the number as an int. Raises ValueError.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, {least} or more")
    return int(value)


def check_number(
    name: str, value: Any, *, above: float | None = None, least: float | None = None, most: float | None = None
) -> float:
    """Refuse a value that is not a finite number, or is outside its bounds.

    name: the parameter, as the user writes it.
    value: what was given.
    above: the number must be larger than this; None for no such bound.
    least: the smallest number that is accepted; None for no such bound.
    most: the largest number that is accepted; None for no such bound.

    Returns the number as a float. Raises ValueError.
    """
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("above", above), ("at least", least), ("at most", most))
        if bound is not None
    ]
    wrong = isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not math.isfinite(value)
    if (
        wrong
        or (above is not None and value <= above)
        or (least is not None and value < least)
        or (most is not None and value > most)
    ):
        raise ValueError(f"{name} is {value!r}; it must be a finite number{''.join(f', {text}' for text in bounds)}")
    return float(value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Refuse a word that is not one of the choices.

    name: the parameter, as the user writes it.
    value: what was given.
    choices: the words that are accepted.

    Returns the word. Raises ValueError.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")
    return value


def check_shape(name: str, value: Any) -> tuple[int, int]:
    """Refuse a value that is not a pair of rows and columns.

    name: the parameter, as the user writes it.
    value: what was given: two whole numbers, 1 or more.

    Returns rows and columns. Raises ValueError.
    """
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{name} is {value!r}; it must be two numbers, rows and columns")
    rows, columns = (check_count(f"{name}[{i}]", size) for i, size in enumerate(value))
    return rows, columns


def generator(random_state: Any) -> np.random.Generator:
    """Return a random generator for one estimator; the global random state is left alone.

    random_state: the estimator's seed, a whole number, 0 or more.

    Returns the generator. Raises ValueError.
    """
    return np.random.default_rng(check_count("random_state", random_state, least=0))


def check_switch(name: str, value: Any) -> bool:
    """Refuse a value that is neither True nor False.

    name: the parameter, as the user writes it.
    value: what was given.

    Returns the value as a bool. Raises ValueError.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {value!r}; it must be True or False")
    return bool(value)


def samples(
    estimator: BaseEstimator,
    X: Any,
    *,
    reset: bool,
    positive: bool = False,
    features: int | None = None,
    dtype: np.dtype | type | None = None,
) -> np.ndarray:
    """Return the samples as an array that compiled code can read, or refuse them.

    estimator: the estimator that was called; its ``n_features_in_`` and ``feature_names_in_`` are set or compared.
    X: (n, features) numbers, one sample or more; an array, a list of rows or a data frame. Their squares must not
        overflow: at most 1e150 in size, or 1e18 in float32.
    reset: True where learning begins, False where the samples must be of the same features as before.
    positive: True where values below 0 are refused.
    features: how many features the estimator's parameters ask for; None: any number.
    dtype: float32 or float64; None: float32 where X is of that type, otherwise float64.

    Returns (n, features), contiguous, X itself where possible.
    Raises ValueError for samples that are not accepted, before the estimator is changed.
    """
    values = check_array(
        X,
        dtype=[np.float64, np.float32] if dtype is None else dtype,
        order="C",
        ensure_all_finite=False,
        ensure_non_negative=positive,
        estimator=estimator,
        input_name="X",
    )
    most = LARGEST[values.dtype.name]
    accepted = np.abs(values) <= most  # NaN is not
    if not accepted.all():
        row, column = np.argwhere(~accepted)[0]
        raise ValueError(
            f"X has {values[row, column]} in row {row}, column {column}; "
            f"values must be finite (no NaN, no inf) and at most {most:g} in size"
        )
    if features is not None and values.shape[1] != features:
        raise ValueError(f"X has {values.shape[1]} features; the parameters of the estimator ask for {features}")
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    return np.require(values, requirements=["C", "W"])  # read-only memory would need another compilation
