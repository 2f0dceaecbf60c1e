"""Small figures of a few bars, drawn as SVG from the records of the build: for cards and for the first page.

A line has a name and a value: a key, or a number with its unit and source if somebody else reported it::

    ```{bars} times as fast as floats
    on paper = 58 x {cite:p}`rastegari2016xnor`
    here, a convolution = binarization.kernel.conv_ratio
    ```

The source is not shown: it is for readers of the page's source, and for the gate on typed numbers. Only ``1 x``, the
value that others are compared with, needs none.

A measured value is a full bar; a reported one is an outline.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from docutils import nodes
from sphinx.application import Sphinx

from lib.book.ledger import Records
from lib.book.sphinx.page import PROFILE, Page
from lib.evidence import KEY, formatted, interval

SAID = re.compile(r"(?P<value>[-−]?\d+(?:\.(?P<digits>\d+))?)(?: (?P<unit>\S.*))?")
SOURCE = re.compile(r"\s*\{cite:\w+\}`[^`]+`\s*$")
WIDTH, LENGTH, ROW, BAR = 300, 216, 40, 14  # of the picture, of the longest bar, of a row and of its bar
UNIT = "1 x"  # the value that others are compared with
MISSING = "This result was not measured in this build."


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its value, the text beside it, and whether the book measured it."""

    name: str
    value: float
    text: str
    measured: bool


def read(lines: Iterable[str], records: Records) -> list[Bar] | None:
    """Return the bars that lines ``name = value`` describe.

    lines: one for each bar, with a key or a number and its unit.
    records: this build's measurements.

    Returns None if one of the keys was not measured. Raises ValueError for a line of another form, and for a number
    without a source.

    >>> records = {"a.b.time_ratio": {"values": [2, 4], "unit": "x", "digits": 1}}
    >>> bars = read(["on paper = 58 x {cite:p}`han2016deep`", "here = a.b.time_ratio"], records)
    >>> [(bar.name, bar.text, bar.measured) for bar in bars]
    [('on paper', '58×', False), ('here', '3.0×', True)]
    """
    bars: list[Bar | None] = []
    for line in lines:
        name, equals, given = (part.strip() for part in SOURCE.sub("", line).rpartition("="))
        if not (name and equals and (SAID.fullmatch(given) or KEY.fullmatch(given))):
            raise ValueError(f"a bar must be `name = key` or `name = number unit`, not {line.strip()!r}")
        if SAID.fullmatch(given) and given != UNIT and not SOURCE.search(line):
            raise ValueError(f"a bar with a number must cite its source, not {line.strip()!r}")
        bars.append(_bar(name, given, records))
    measured = [bar for bar in bars if bar is not None]
    return measured if measured and len(measured) == len(bars) else None


def picture(quantity: str, bars: list[Bar]) -> str:
    """Return the figure as SVG, in the colors of the page.

    quantity: what the bars show, its unit included; the text for screen readers begins with it.
    bars: one or more. A value below zero has no bar.

    >>> picture("times as fast", [Bar("on paper", 58, "58×", False)]).count("<rect")
    1
    """
    most = max(max(bar.value for bar in bars), 1e-9)
    said = escape(f"{quantity}: {'; '.join(f'{bar.name} {bar.text}' for bar in bars)}", quote=True)
    parts = [f'<svg class="bars" viewBox="0 0 {WIDTH} {ROW * len(bars)}" role="img" aria-label="{said}">']
    for row, bar in enumerate(bars):
        length = 0 if bar.value < 0 else max(LENGTH * bar.value / most, 2)
        top = ROW * row + 18
        style = "measured" if bar.measured else "said"
        parts += [
            f'<text x="0" y="{ROW * row + 13}">{escape(bar.name)}</text>',
            f'<rect class="{style}" x="1" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>',
            f'<text class="value" x="{length + 8:.1f}" y="{top + 12}">{escape(bar.text)}</text>',
        ]
    return "".join([*parts, "</svg>"])


def figure(quantity: str, lines: Iterable[str], records: Records) -> nodes.Node:
    """Return a figure of bars with its quantity above it, or a sentence if a key was not measured.

    quantity: what the bars show.
    lines: as :func:`read` takes them.
    records: this build's measurements.
    """
    bars = read(lines, records)
    if bars is None:
        return nodes.paragraph(text=MISSING, classes=["bars-of"])
    return nodes.raw("", f'<p class="bars-of">{escape(quantity)}</p>{picture(quantity, bars)}', format="html")


class Bars(Page):
    """A figure of bars; the argument says what they show."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def render(self) -> list[nodes.Node]:
        lines = [line for line in self.content if line.strip()]
        return [figure(" ".join(self.arguments[0].split()), lines, self.load()[1][PROFILE])]


def _bar(name: str, given: str, records: Records) -> Bar | None:
    if said := SAID.fullmatch(given):
        value = float(said["value"].replace("−", "-"))
        return Bar(name, value, formatted([value], unit=said["unit"] or "", digits=len(said["digits"] or "")), False)
    if given not in records:
        return None
    value = interval(records[given]["values"])[0]
    return Bar(name, value, formatted([value], unit=records[given]["unit"], digits=records[given]["digits"]), True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.add_directive("bars", Bars)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
