"""One style for every figure: axes, lines with their spread, legends, and the figure on its page."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import Any, Required, TypedDict, Unpack

import matplotlib
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lib.evidence import FEW, interval, unbroken
from lib.figures.looks import DENSE

TITLE = 9.0  # letters of a figure's title per inch
Runs = Sequence[Sequence[float]]  # for each point the values of all seeds
Bounds = tuple[float, float]
SEED = {"linestyle": "none", "markersize": 3, "alpha": 0.6}  # the dot of a single seed, beside the mean
STYLE: dict[Any, Any] = {
    "figure.figsize": (6.0, 3.6),
    "figure.facecolor": "white",
    "font.size": 12,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "svg.fonttype": "path",
    "svg.hashsalt": "survey",
    "figure.constrained_layout.use": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Inside the block, new figures have the book's style."""
    with matplotlib.rc_context(STYLE):
        yield


def axes(columns: int = 1, *, sharex: bool = False, sharey: bool = False) -> tuple[Figure, Any]:
    """Make a figure in the book's style; return it and its axes: one, or an array of them if there are several columns.

    columns: number of axes side by side, default 1.
    sharex, sharey: whether all have the same scale, default False.
    """
    with style():
        figure = Figure(figsize=(6.0, 3.6), layout="constrained")
        return figure, figure.subplots(1, columns, sharex=sharex, sharey=sharey)


def logarithmic(ax: Axes, *which: str) -> None:
    """Make axes logarithmic, labeled with plain numbers, such as 2 and 50, instead of powers of ten.

    ax: the axes.
    which: "x", "y", or both.
    """
    for name in which:
        getattr(ax, f"set_{name}scale")("log")
        axis = getattr(ax, f"{name}axis")
        axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
        axis.set_minor_locator(NullLocator())


def plain(value: float) -> str:
    """Return a number without an exponent, as the label of a tick: 1,000,000 and 0.00002.

    value: any number; one below 1e-9 or above 1e15 keeps its exponent.

    >>> plain(1e6), plain(2e-5), plain(0.5), plain(50)
    ('1,000,000', '0.00002', '0.5', '50')
    """
    if value and not 1e-9 <= abs(value) <= 1e15:
        return f"{value:g}"
    return f"{value:,.12f}".rstrip("0").rstrip(".")


def legend(ax: Axes, columns: int = 2, *, narrow: bool = False) -> None:
    """Put the legend above the axes, where it hides no measurement.

    ax: the axes.
    columns: entries per line, default 2.
    narrow: less space between entries, so that more fit; default False.
    """
    room: dict[str, Any] = {"handletextpad": 0.2, "columnspacing": 1} if narrow else {}
    with style():
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns, borderaxespad=0, **room)


def line(
    ax: Axes, x: Sequence[float], runs: Runs, look: dict[str, Any], label: str, *, bounds: Bounds | None = None
) -> None:
    """Draw a line through the means over seeds; two seeds are shown as dots, more as their 95 % interval.

    ax: the axes.
    x: one number for each point.
    runs: for each x the values of all seeds.
    look: one of :data:`LOOKS`.
    label: for the legend.
    bounds: between which the quantity must lie, such as :data:`PERCENT`; intervals end there. Default none.
    """
    _check_points(label, "x", x)
    means, reach, seeds = _spread(label, runs, bounds)
    dots = [(at, value) for at, run in zip(x, seeds, strict=True) for value in run]
    with style():
        ax.errorbar(x, means, yerr=reach, capsize=3, label=label, **look)
        if dots:
            ax.plot(*zip(*dots, strict=True), **look | SEED)


def dots(
    ax: Axes, y: Sequence[float], runs: Runs, look: dict[str, Any], label: str | None, *, bounds: Bounds | None = None
) -> None:
    """Draw one dot in each row at the mean over seeds, as :func:`line` does, with the spread to its left and right.

    ax: the axes.
    y: the height of each row.
    runs: for each row the values of all seeds.
    look: one of :data:`LOOKS`; no line joins the rows.
    label: for the legend; None for none.
    bounds: as for :func:`line`.
    """
    means, reach, seeds = _spread(label, runs, bounds)
    look = look | {"linestyle": "none"}
    single = [(value, at) for at, run in zip(y, seeds, strict=True) for value in run]
    with style():
        ax.errorbar(means, y, xerr=reach, capsize=3, label=label, **look)
        if single:
            ax.plot(*zip(*single, strict=True), **look | SEED)


def _check_points(label: str | None, what: str, values: Iterable[float], log: bool = False) -> None:
    """Raise ValueError for a number that its axis cannot show."""
    for value in map(float, values):
        if not np.isfinite(value) or (log and value <= 0):
            accepted = "numbers above 0 on a logarithmic axis" if log else "finite numbers"
            raise ValueError(f"the line {label!r} has the {what} {value}: accepted are {accepted}")


def _spread(
    label: str | None, runs: Runs, bounds: Bounds | None
) -> tuple[np.ndarray, np.ndarray | None, list[list[float]]]:
    """Means, how far bars reach below and above them (None if no bar does), and the values shown as dots."""
    values = [list(map(float, run)) for run in runs]
    for run in values:
        _check_points(label, "value", run)
    means, halves = map(np.array, zip(*map(interval, values), strict=True))
    halves = np.where([len(run) < FEW for run in values], 0, halves)
    low, high = bounds or (-np.inf, np.inf)
    reach = np.stack([means - np.maximum(low, means - halves), np.minimum(high, means + halves) - means]).clip(0)
    return means, reach if reach.any() else None, [run if 1 < len(run) < FEW else [] for run in values]


class Words(TypedDict, total=False):
    """The texts of a figure, as :func:`show` takes them; finding and lead may be left out."""

    finding: str
    alt: Required[str]
    name: Required[str]
    caption: Required[str]
    lead: bool


def curves(
    lines: Mapping[str, tuple[dict[str, Any], Sequence[float], Runs]],
    *,
    xlabel: str,
    ylabel: str,
    log: str = "",
    falling: bool = False,
    bounds: Bounds | None = None,
    level: tuple[str, float] | None = None,
    **words: Unpack[Words],
) -> None:
    """Draw one line for each technique, as :func:`line` does, and show the figure.

    lines: label -> (look, x, runs).
    xlabel, ylabel: of the axes, with units.
    log: "x", "y" or "xy" for logarithmic axes, default none.
    falling: whether x falls from left to right, as for the share of weights that is kept; default False.
    bounds: as for :func:`line`.
    level: label and height of a horizontal line, such as the dense network's error; default none.
    words: finding, alt, name, caption and lead, as :func:`show` takes them.

    Raises ValueError for other axes, for numbers that are not finite or not above 0 on a logarithmic axis, and as
    :func:`show` does.
    """
    if log not in ("", "x", "y", "xy"):
        raise ValueError(f"log must be one of '', 'x', 'y' and 'xy', not {log!r}")
    for label, (_, x, runs) in lines.items():
        _check_points(label, "x", x, log="x" in log)
        means, _, seeds = _spread(label, runs, bounds)
        _check_points(label, "value", [*means, *(value for run in seeds for value in run)], log="y" in log)
    if level is not None:
        _check_points(level[0], "height", [level[1]], log="y" in log)
    figure, ax = axes()
    for label, (look, x, runs) in lines.items():
        line(ax, x, runs, look, label, bounds=bounds)
    if level is not None:
        ax.axhline(level[1], **DENSE | {"marker": ""}, label=level[0])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    logarithmic(ax, *log)
    if falling:
        ax.invert_xaxis()
    legend(ax)
    show(figure, **words)


def show(figure: Figure, *, alt: str, name: str, caption: str, finding: str = "", lead: bool = False) -> None:
    """Put a figure on the page as SVG, numbered, with a caption.

    figure: as :func:`axes` makes it.
    alt: a text that replaces the picture and states its finding.
    name: by which the page refers to the figure.
    caption: shown below the figure.
    finding: one sentence with what the figure shows, drawn on it as its title; default none.
    lead: whether it is the chapter's figure, which the page shows first; default False.

    Raises ValueError for a text, caption or finding of fewer than four words.
    """
    for what, text in (("alt", alt), ("caption", caption), ("finding", finding or alt)):
        if len(text.split()) < 4:
            raise ValueError(f"{what} of figure {name!r} is {text!r}: a sentence that states the finding is needed")
    if finding:
        width = int(figure.get_figwidth() * TITLE)
        figure.suptitle(fill(unbroken(finding), width), x=0.01, ha="left", fontsize=12, fontweight="bold")
    with style(), io.StringIO() as out:
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        svg = out.getvalue()
    words = {"alt": alt, "name": name, "caption": caption} | ({"lead": True} if lead else {})
    display({"image/svg+xml": svg, "text/plain": alt}, raw=True, metadata={"survey": {"figure": words}})
