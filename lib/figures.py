"""One style for every figure, every table and every piece of shown code."""

import hashlib
import inspect
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import dedent
from typing import Any

import matplotlib
import pandas as pd
from IPython.display import HTML, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lib.evidence import interval

# One color and one marker for each kind of curve, in every chapter. The colors are Okabe and Ito's, which color-blind
# readers can tell apart. What the survey or a paper reports is always a hollow black marker.
DENSE = {"color": "#6b6b6b", "marker": "s", "linestyle": ":"}
PRUNING = {"color": "#0072b2", "marker": "o", "linestyle": "-"}
RETRAINED = {"color": "#009e73", "marker": "D", "linestyle": "-"}
QUANTIZATION = {"color": "#d55e00", "marker": "^", "linestyle": "--"}
COMBINED = {"color": "#cc79a7", "marker": "v", "linestyle": "-."}
REPORTED = {"color": "black", "marker": "*", "linestyle": "none", "markerfacecolor": "none", "markersize": 12}

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
    """Make axes logarithmic, labeled with plain numbers, 2 and 50, not with powers of ten.

    ax: the axes.
    which: "x", "y", or both.
    """
    for name in which:
        getattr(ax, f"set_{name}scale")("log")
        axis = getattr(ax, f"{name}axis")
        axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())


def legend(ax: Axes, columns: int = 2, *, narrow: bool = False) -> None:
    """Put the legend above the axes, where it hides no measurement.

    ax: the axes.
    columns: entries per line, default 2.
    narrow: less space between entries, so that more fit; default False.
    """
    room: dict[str, Any] = {"handletextpad": 0.2, "columnspacing": 1} if narrow else {}
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns, borderaxespad=0, **room)


def line(ax: Axes, x: Sequence[float], runs: Sequence[Sequence[float]], look: dict, label: str) -> None:
    """Draw a line through the means over seeds, with the 95 % intervals as bars.

    ax: the axes.
    x: one number for each point.
    runs: for each x the values of all seeds.
    look: one of the looks above, such as ``PRUNING``.
    label: for the legend.
    """
    means, halves = zip(*(interval(list(map(float, values))) for values in runs), strict=True)
    bars = halves if any(halves) else None
    ax.errorbar(x, means, yerr=bars, capsize=3, label=label, **look)


def show(figure: Figure, *, alt: str, name: str, caption: str) -> None:
    """Put a figure on the page as SVG, numbered, with a caption.

    figure: as :func:`axes` makes it.
    alt: a text in place of the picture, which states its finding in words.
    name: by which the page refers to the figure.
    caption: shown below the figure.

    Raises ValueError for a text or a caption of fewer than four words.
    """
    for what, text in (("alt", alt), ("caption", caption)):
        if len(text.split()) < 4:
            raise ValueError(f"{what} of figure {name!r} is {text!r}: a sentence that states the finding is needed")
    with style(), io.StringIO() as out:
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        svg = out.getvalue()
    metadata = {"survey": {"figure": {"alt": alt, "name": name, "caption": caption}}}
    display({"image/svg+xml": svg, "text/plain": alt}, raw=True, metadata=metadata)


def table(rows: Sequence[dict[str, object]], *, caption: str) -> None:
    """Show a table.

    rows: column -> text, or a number that is shown as it is.
    caption: shown with the table.
    """
    frame = pd.DataFrame(rows)
    uuid = hashlib.blake2b(caption.encode(), digest_size=4).hexdigest()  # pandas would draw one: another page each time
    styler = (
        frame.style.set_uuid(uuid)
        .hide(axis="index")
        .set_caption(caption)
        .set_table_attributes('class="dataframe table-scroll"')
    )
    display(HTML(f'<div class="table-wrap">{styler.to_html()}</div>'))


def show_source(*objects: Callable[..., object]) -> None:
    """Show the code of functions or classes of ``lib`` as it is in their files, so it cannot differ from what runs.

    objects: one function or class, or more.
    """
    text = "\n\n".join(dedent(inspect.getsource(shown)).rstrip() for shown in objects)
    display(Markdown(f"```python\n{text}\n```"))
