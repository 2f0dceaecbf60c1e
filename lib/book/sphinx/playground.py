"""The directive ``{playground}``: two sliders, for the weights that are kept and the bits of each, over recorded runs.

``_static/playground.js`` makes the sliders from the numbers beside them. Without it, and in print, a table shows them.
"""

import json
import math
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from lib.book import playground
from lib.book.sphinx.page import Page
from lib.book.sphinx.parts import fold
from lib.evidence import interval

HEIGHTS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"  # of a bar of the histogram: 0 to 63
SUMMARY = "All settings as a table"
CAPTION = "Test error, and the size of the file, for each share of weights kept and number of bits per weight"


class Playground(Page):
    """The numbers for the sliders, and the same numbers as a folded table."""

    def render(self) -> list[nodes.Node]:
        self.env.note_dependency(str(self.root / playground.RECORD))
        record = playground.load(self.root)
        data = json.dumps(compact(record), separators=(",", ":"))
        box = f'<div class="playground"><script type="application/json">{data}</script></div>'
        every = fold([nodes.Text(SUMMARY)], [nodes.raw("", table(record), format="html")])
        return [nodes.raw("", box, format="html"), every]


def compact(record: dict[str, Any]) -> dict[str, Any]:
    """Return what the sliders need, with the smallest density and the fewest bits first.

    record: as :func:`lib.book.playground.load` returns it.
    """
    rows = {(row["density"], row["bits"]): row for row in record["settings"]}
    densities, bits = sorted({density for density, _ in rows}), sorted({number for _, number in rows})
    most = max(max(row["histogram"]) for row in record["settings"])
    ordered = [rows[density, number] for density in densities for number in bits]
    return {
        "densities": densities,
        "bits": bits,
        "dense": record["dense_bytes"],
        "edge": playground.EDGE,
        "heights": HEIGHTS,
        "error": [round(interval(row["error_pct"])[0], 2) for row in ordered],
        "bytes": [round(interval(row["bytes"])[0]) for row in ordered],
        "bars": ["".join(bar(count, most) for count in row["histogram"]) for row in ordered],
    }


def bar(count: int, most: int) -> str:
    """Return the height of a bar as one character; heights are logarithmic, since the zeros would dwarf all else.

    count: how many weights are in the bin.
    most: the most in any bin, at least 2.

    >>> bar(0, 1000), bar(1, 1000), bar(1000, 1000)
    ('0', '1', '_')
    """
    return HEIGHTS[0 if not count else 1 + round(62 * math.log(count) / math.log(most))]


def table(record: dict[str, Any]) -> str:
    """Return all settings as a table of HTML.

    record: as :func:`lib.book.playground.load` returns it.
    """
    data = compact(record)
    columns = "".join(f'<th scope="col">{_bits(number)}</th>' for number in data["bits"])
    lines = []
    for i, density in enumerate(data["densities"]):
        first = i * len(data["bits"])
        cells = "".join(
            f"<td>{data['error'][k]:.1f}\N{NO-BREAK SPACE}%<br>{data['bytes'][k] / 1000:,.0f}\N{NO-BREAK SPACE}kB</td>"
            for k in range(first, first + len(data["bits"]))
        )
        lines.append(f'<tr><th scope="row">{density}\N{NO-BREAK SPACE}%</th>{cells}</tr>')
    head = f'<thead><tr><th scope="col">kept</th>{columns}</tr></thead>'
    inside = f"<caption>{escape(CAPTION)}</caption>{head}<tbody>{''.join(lines)}</tbody>"
    box = f'<div class="playground-table" tabindex="0" role="region" aria-label="{SUMMARY}">'
    return f"{box}<table>{inside}</table></div>"


def _bits(number: int) -> str:
    return f"{number}\N{NO-BREAK SPACE}bits"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.add_directive("playground", Playground)
    app.setup_extension("lib.book.sphinx.parts")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
