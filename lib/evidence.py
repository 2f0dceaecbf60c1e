"""Measurements of a running chapter: a text for its sentences, the raw values for its record."""

import math
import numbers
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from IPython.display import Markdown, display
from scipy.special import stdtrit

GLUE = "application/papermill.record/"  # what MyST-NB reads back: the value is stored, and not shown in place
KEY = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+){2,}")
ATTACHED = ("×",)  # units written without a space
UNITS = {"pct": ("%", 2), "points": ("points", 2), "ratio": ("x", 1), "bytes": ("bytes", 0)}  # of a key's last word
TIMING = re.compile(r"latency|seconds|(?:^|[._])m?s$")  # in the key of a time, or of a ratio of times
SHARES = re.compile(  # keys of quantities that lie between 0 and 100 %
    r"[._](?:error|accuracy|recall|agreement|solved|met|missed|removed|density|flipped|saturated|covered)_pct$"
)
Values = float | Iterable[float]  # one number for each seed, or one number
SPACE = re.compile(r"(?<=[\d±)]) (?=\d|±|[%×]|(?:points?|bytes|[kM]?B|[mµ]?s|epochs?|bits?)\b)")  # within a value
LARGEST = 1e150  # size of a measurement: the squares of larger ones overflow
FEW = 3  # from so many values on, an interval is shown and decides; fewer are shown as they are


def recorder(chapter: str, dataset: Any = None) -> Callable[..., str]:
    """Return a function that records a chapter's measurements, and show the line on its data.

    It is called as :func:`record` is, without the chapter's name before the key.

    chapter: the name with which the keys begin, such as ``"pruning"``.
    dataset: as :func:`uses` takes it; None (default): no line.
    """
    if dataset is not None:
        uses(dataset)

    def recorded(
        key: str,
        values: Values,
        unit: str | None = None,
        digits: int | None = None,
        exact: bool = False,
        timing: bool | None = None,
    ) -> str:
        return record(f"{chapter}.{key}", values, unit=unit, digits=digits, exact=exact, timing=timing)

    return recorded


def record(
    key: str,
    values: Values,
    *,
    unit: str | None = None,
    digits: int | None = None,
    exact: bool = False,
    timing: bool | None = None,
) -> str:
    """Store a measurement under ``key``, show it in a notebook, and return its text, as :func:`formatted` writes it.

    key: ``chapter.subject.metric``, of lower-case letters, digits and ``_``. A page then shows the text with
        ``{glue:text}`key` ``, and the chapter's results hold the values.
    values: one number for each seed, or one number; a tensor or an array of one dimension is accepted as well.
    unit: ``"%"``, ``"bytes"``, ``"ms"``, ``"x"`` (printed ``×``), or ``""``. None (default): what the key's last word
        says: % for ``pct``, points, x for ``ratio``, bytes, and no unit for any other word.
    digits: digits after the point, 0 to 12; 0 prints a count, with separators for thousands. None (default): two for %
        and points, one for ratios, none for bytes and all else.
    exact: True for what neither a seed nor a processor changes: counts, bytes of a fixed file, identities. Default
        False: another seed would give another value, and fewer than three values decide nothing.
    timing: True for a time, a ratio of times, and anything else that depends on the processor. None (default): what the
        key says, a time if it has ``latency`` or ``seconds`` in it or ends in ``_ms`` or ``_s``.

    Raises ValueError for a key of another form, for no values, for values that are not finite numbers up to 1e150, for
    a mapping or a set of them, and for a value marked as both exact and a time.
    """
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise ValueError(
            f"the key {key!r} is not of the form chapter.subject.metric:"
            " accepted are lower-case letters, digits and _, with at least two dots between them"
        )
    found = _numbers(key, values)
    of_key = UNITS.get(re.split(r"[._]", key)[-1], ("", 0))
    unit, digits = of_key[0] if unit is None else unit, of_key[1] if digits is None else digits
    timing = bool(TIMING.search(key.partition(".")[2])) if timing is None else timing
    if exact and timing:
        raise ValueError(f"{key!r} is said to be exact, and it is a time: processors differ in it")
    text = formatted(found, unit=unit, digits=digits, bounds=bounds(key, unit))
    flags = {"exact": bool(exact), "timing": bool(timing)}
    metadata = {
        "scrapbook": {"name": key, "mime_prefix": GLUE},
        "survey": {"record": {"key": key, "values": found, "unit": unit, "digits": digits, **flags}},
    }
    display({GLUE + "text/plain": repr(text), "text/plain": f"{key}: {text}"}, raw=True, metadata=metadata)
    return Text(text)


class Text(str):
    """A measurement's text. A cell that ends with one shows nothing more, since recording it has shown it already."""

    __slots__ = ()

    def _ipython_display_(self) -> None:
        pass


def phrase(key: str, text: str) -> str:
    """Glue words that the result chooses: a page shows them with ``{glue:text}`key` ``. Nothing is recorded.

    key: as for :func:`record`.
    text: the words, such as ``"rises"`` or ``"falls"``; ValueError for none.
    """
    if not KEY.fullmatch(key) or not text.strip():
        raise ValueError(f"a phrase needs a key chapter.subject.word and words, not {key!r} and {text!r}")
    metadata = {"scrapbook": {"name": key, "mime_prefix": GLUE}}
    display({GLUE + "text/plain": repr(text), "text/plain": f"{key}: {text}"}, raw=True, metadata=metadata)
    return Text(text)


def answer(text: str) -> None:
    """Show the sentence that answers an exercise.

    text: Markdown of four words or more, with the computed numbers in it. Raises ValueError for fewer words.
    """
    if len(text.split()) < 4:
        raise ValueError(f"the answer is {text!r}: a sentence that answers the exercise is needed")
    display(Markdown(f"**Answer.** {text}"))


def uses(dataset: Any) -> None:
    """Show one line on the data: its name, the sizes of its splits, where it came from. The results store the same.

    dataset: has ``name``, ``source`` and the splits ``train``, ``validation`` and ``test``, each with a length.
    """
    sizes = {split: len(getattr(dataset, split)) for split in ("train", "validation", "test")}
    counts = f"{sizes['train']:,} training, {sizes['validation']:,} validation and {sizes['test']:,} test samples"
    data = {
        "text/markdown": f"Data: **{dataset.name}**, {counts} ({dataset.source}).",
        "text/plain": f"Data: {dataset.name}, {counts} ({dataset.source}).",
    }
    metadata = {"survey": {"data": {"name": dataset.name, "source": dataset.source, **sizes}}}
    display(data, raw=True, metadata=metadata)


def harvest(notebook: Any, chapter: str | None = None) -> dict[str, Any]:
    """Return what an executed notebook recorded.

    notebook: as nbformat reads it.
    chapter: the name with which every key must begin, or its leading words (``quantization.`` in the chapter
        ``quantization_records``); None (default) takes the one in the notebook's ``survey`` metadata.

    Returns ``{"records": {key: {values, unit, digits[, exact][, timing]}}, "data": [...]}``.
    Raises ValueError for a key recorded twice, for a key of another chapter, and for a notebook that names no chapter.
    """
    chapter = chapter or notebook.get("metadata", {}).get("survey", {}).get("chapter")
    if not chapter:
        raise ValueError("the notebook does not say which chapter it is: harvest needs the chapter's name")
    records: dict[str, Any] = {}
    data: list[dict[str, Any]] = []
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    for found in (output.get("metadata", {}).get("survey", {}) for output in outputs):
        if one := found.get("record"):
            key = one["key"]
            if not f"{chapter}_".startswith(f"{key.split('.')[0]}_"):
                raise ValueError(f"the chapter {chapter!r} records {key!r}: its keys begin with '{chapter}.'")
            if key in records:
                raise ValueError(
                    f"the key {key!r} is recorded twice in the chapter {chapter!r}: each key belongs to one measurement"
                )
            records[key] = {"values": list(one["values"]), "unit": one["unit"], "digits": one["digits"]}
            records[key] |= {flag: True for flag in ("exact", "timing") if one.get(flag)}
        if (used := found.get("data")) and dict(used) not in data:
            data.append(dict(used))
    return {"records": records, "data": data}


def bounds(key: str, unit: str) -> tuple[float, float] | None:
    """Return the bounds that a quantity has by its nature: 0 and 100 for shares in %, such as errors, else None.

    key: of the measurement.
    unit: its unit.

    >>> bounds("pruning.lenet5.error_pct", "%"), bounds("pruning.lenet5.error_pct", "points")
    ((0.0, 100.0), None)
    """
    return (0.0, 100.0) if unit == "%" and SHARES.search(key) else None


def formatted(values: list[float], *, unit: str, digits: int, bounds: tuple[float, float] | None = None) -> str:
    """Return the text of a measurement.

    One value is ``1.62 %``, two are ``1.62 and 1.70 %``, and more are ``1.62 ± 0.07 %``, the mean and half of its 95 %
    interval. An interval that reaches beyond the bounds is written with its ends, ``0.51 (0.00 to 1.49) %``, and one
    that rounds to nothing is left out.

    values: finite numbers, at least one.
    unit: one line of text; ``"x"`` is printed ``×``.
    digits: digits after the point, 0 to 12.
    bounds: those that the quantity has by its nature, default none.

    Raises ValueError for another unit or number of digits.

    >>> formatted([1.5, 1.6, 1.7], unit="%", digits=2)
    '1.60 ± 0.25 %'
    >>> formatted([2.5, 0.75], unit="x", digits=1)
    '2.5 and 0.8×'
    >>> formatted([0.1, 0.2, 0.9], unit="%", digits=1, bounds=(0, 100))
    '0.4 (0.0 to 1.5) %'
    """
    if not isinstance(unit, str) or "\n" in unit:
        raise ValueError(f"the unit {unit!r} is not one line of text: give '%', 'bytes', 'x', '' or another name")
    if isinstance(digits, bool) or not isinstance(digits, int) or not 0 <= digits <= 12:
        raise ValueError(f"digits is {digits!r}: accepted are whole numbers from 0 to 12")
    unit = "×" if unit == "x" else unit
    text = _several(values, digits, bounds)
    return text + unit if unit in ATTACHED else f"{text} {unit}".rstrip()


def _several(values: list[float], digits: int, bounds: tuple[float, float] | None) -> str:
    if len(values) < FEW:
        return " and ".join(dict.fromkeys(number(value, digits) for value in values))
    mean, half = interval(values)
    text, spread = number(mean, digits), number(half, digits)
    if spread == number(0.0, digits):
        return text
    low, high = bounds or (-math.inf, math.inf)
    if mean - half < low or mean + half > high:
        return f"{text} ({number(max(low, mean - half), digits)} to {number(min(high, mean + half), digits)})"
    return f"{text} ± {spread}"


def unbroken(text: str) -> str:
    """Return the text with no-break spaces between a number and its spread or unit, so that they stay on one line.

    text: any text with values as :func:`formatted` writes them.

    >>> unbroken("1.5 ± 0.2 points more").replace("\N{NO-BREAK SPACE}", "_")
    '1.5_±_0.2_points more'
    """
    return SPACE.sub("\N{NO-BREAK SPACE}", text)


def number(value: float, digits: int) -> str:
    """Return the value with ``digits`` digits after the point, a true minus sign, and separators in counts.

    value: any finite number.
    digits: 0 or more.

    >>> number(12345.6, 0), number(-0.5, 1)
    ('12,346', '−0.5')
    """
    text = f"{value:,.0f}" if digits == 0 else f"{value:.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", "−")


def interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % t-interval; the half-width of a single value is 0.

    values: at least one.
    """
    n = len(values)
    if min(values) == max(values):
        return values[0], 0.0
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n)


def _numbers(key: str, values: Any) -> list[float]:
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, Mapping | Set):
        raise ValueError(
            f"{key!r} has the values {values!r}, a {type(values).__name__}:"
            " give a list with one number for each seed, or one number"
        )
    if isinstance(values, Iterable) and not isinstance(values, str | bytes):
        values = [v.item() if hasattr(v, "item") else v for v in values]
    else:
        values = [values]
    if not values:
        raise ValueError(f"{key!r} has no values: give one number for each seed, or one number")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(
                f"{key!r} holds {value!r}, which is not a number: give one number for each seed, or one number"
            )
        size: Any = abs(value)
        if LARGEST < size < math.inf:
            raise ValueError(f"{key!r} holds {reprlib.repr(value)}: accepted are numbers from -1e150 to 1e150")
        if not math.isfinite(value):
            raise ValueError(f"{key!r} holds {float(value)}: only finite numbers are measurements")
    return [float(value) for value in values]
