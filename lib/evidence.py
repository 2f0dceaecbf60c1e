"""Measurements that leave a running chapter: a text for the sentence, the raw values for the record."""

import math
import numbers
import re
from collections.abc import Iterable
from typing import Any

from IPython.display import display
from scipy.special import stdtrit

GLUE = "application/papermill.record/"  # what MyST-NB reads back: the value is stored, and not shown in place
KEY = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+){2,}")
ATTACHED = ("×",)  # units written without a space


def record(key: str, values: float | Iterable[float], *, unit: str, digits: int, exact: bool = False) -> str:
    """Store a measurement under ``key`` and return its text, ``mean ± half-width of the 95 % interval unit``.

    key: ``chapter.subject.metric``, of lower-case letters, digits and ``_``. A page then shows the text with
        ``{glue:text}`key` ``, and the chapter's results hold the values.
    values: one number for each seed, or one number; a tensor or an array of one dimension is accepted as well.
    unit: ``"%"``, ``"bytes"``, ``"ms"``, ``"x"`` (printed ``×``), or ``""``.
    digits: digits after the point, 0 to 12; 0 prints a count, with separators for thousands.
    exact: True for what neither a seed nor a processor changes: counts, bytes of a fixed file, identities. Default
        False.

    Raises ValueError for a key of another form, for no values, and for values that are not finite numbers.
    """
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise ValueError(
            f"the key {key!r} is not of the form chapter.subject.metric:"
            " accepted are lower-case letters, digits and _, with at least two dots between them"
        )
    found = _numbers(key, values)
    text = formatted(found, unit=unit, digits=digits)
    metadata = {
        "scrapbook": {"name": key, "mime_prefix": GLUE},
        "survey": {"record": {"key": key, "values": found, "unit": unit, "digits": digits, "exact": bool(exact)}},
    }
    display({GLUE + "text/plain": repr(text)}, raw=True, metadata=metadata)
    return Text(text)


class Text(str):
    """A measurement's text. A cell that ends with one shows nothing, since the sentence that glues it shows it."""

    __slots__ = ()

    def _ipython_display_(self) -> None:
        pass


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

    Returns ``{"records": {key: {values, unit, digits[, exact]}}, "data": [...]}``.
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
            if one.get("exact"):
                records[key]["exact"] = True
        if (used := found.get("data")) and dict(used) not in data:
            data.append(dict(used))
    return {"records": records, "data": data}


def formatted(values: list[float], *, unit: str, digits: int) -> str:
    """Return the text of a measurement: ``1.62 %`` for one value, ``1.62 ± 0.07 %`` for several.

    values: finite numbers, at least one.
    unit: one line of text; ``"x"`` is printed ``×``.
    digits: digits after the point, 0 to 12.

    Raises ValueError for another unit or number of digits.

    >>> formatted([1.5, 1.6, 1.7], unit="%", digits=2)
    '1.60 ± 0.25 %'
    """
    if not isinstance(unit, str) or "\n" in unit:
        raise ValueError(f"the unit {unit!r} is not one line of text: give '%', 'bytes', 'x', '' or another name")
    if isinstance(digits, bool) or not isinstance(digits, int) or not 0 <= digits <= 12:
        raise ValueError(f"digits is {digits!r}: accepted are whole numbers from 0 to 12")
    mean, half = interval(values)
    text = number(mean, digits) if len(values) == 1 else f"{number(mean, digits)} ± {number(half, digits)}"
    unit = "×" if unit == "x" else unit
    return text + unit if unit in ATTACHED else f"{text} {unit}".rstrip()


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
        if not math.isfinite(value):
            raise ValueError(f"{key!r} holds {float(value)}: only finite numbers are measurements")
    return [float(value) for value in values]
