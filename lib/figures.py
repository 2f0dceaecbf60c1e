"""One style for every figure, table and piece of shown code."""

import hashlib
import inspect
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import dedent

import matplotlib
import pandas as pd
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lib.evidence import interval

# One colour and one marker for each thing, in every chapter; the colours are Okabe and Ito's, told apart by the
# colour-blind. What the survey or a paper reports is always a hollow marker in black.
DENSE = {"color": "#6b6b6b", "marker": "s", "linestyle": ":"}
PRUNING = {"color": "#0072b2", "marker": "o", "linestyle": "-"}
RETRAINED = {"color": "#009e73", "marker": "D", "linestyle": "-"}
QUANTIZATION = {"color": "#d55e00", "marker": "^", "linestyle": "--"}
COMBINED = {"color": "#cc79a7", "marker": "v", "linestyle": "-."}
REPORTED = {"color": "black", "marker": "*", "linestyle": "none", "markerfacecolor": "none", "markersize": 12}

STYLE = {
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
    """The book's look, for the figures made inside."""
    with matplotlib.rc_context(STYLE):
        yield


def axes(columns: int = 1, **subplots: object):
    """A figure in the book's style and its axes, one or a row of them."""
    with style():
        figure = Figure(figsize=(6.0, 3.6), layout="constrained")
        return figure, figure.subplots(1, columns, **subplots)


def logarithmic(ax, *which: str) -> None:
    """Logarithmic axes ("x", "y") that are labelled with plain numbers, 2 and 50, not with powers of ten."""
    for each in which:
        getattr(ax, f"set_{each}scale")("log")
        axis = getattr(ax, f"{each}axis")
        axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())


def legend(ax, columns: int = 2, **more: object) -> None:
    """The legend above the axes, where it hides no measurement."""
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns, borderaxespad=0, **more)


def line(ax, x: Sequence[float], runs: Sequence[Sequence[float]], look: dict, label: str) -> None:
    """A line through the means over seeds, with the 95 % interval as bars. runs: for each x, one value per seed."""
    means, halves = zip(*(interval(list(map(float, values))) for values in runs), strict=True)
    bars = halves if any(halves) else None
    ax.errorbar(x, means, yerr=bars, capsize=3, label=label, **look)


def show(figure: Figure, *, alt: str, name: str, caption: str) -> None:
    """Put a figure on the page as SVG, numbered, with a caption, and a text that states its finding in words."""
    for what, text in (("alt", alt), ("caption", caption)):
        if len(text.split()) < 4:
            raise ValueError(f"{what} of figure {name!r} is {text!r}: a sentence that states the finding is needed")
    with style(), io.StringIO() as out:
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        svg = out.getvalue()
    metadata = {"survey": {"figure": {"alt": alt, "name": name, "caption": caption}}}
    display({"image/svg+xml": svg, "text/plain": alt}, raw=True, metadata=metadata)


def table(rows: Sequence[dict[str, object]], *, caption: str) -> None:
    """A table of the rows; a cell is text, or a number that is shown as it is formatted by the caller."""
    frame = pd.DataFrame(rows)
    uuid = hashlib.blake2b(caption.encode(), digest_size=4).hexdigest()  # pandas would draw one: another page each time
    styler = (
        frame.style.set_uuid(uuid)
        .hide(axis="index")
        .set_caption(caption)
        .set_table_attributes('class="dataframe table-scroll"')
    )
    display(HTML(f'<div class="table-wrap">{styler.to_html()}</div>'))


def show_source(*objects: object) -> None:
    """The code of functions or classes of ``lib``, as it stands in its file: it cannot drift from what runs."""
    text = "\n\n".join(dedent(inspect.getsource(each)).rstrip() for each in objects)
    display(Markdown(f"```python\n{text}\n```"))
