"""The report of a run: one sentence, a table of costs, and a figure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lib import figures
from lib.evidence import number
from lib.recipes.costs import Costs
from lib.recipes.following import GIVEN, LONGER, SHRUNK, Result


@dataclass(frozen=True)
class Column:
    """How one cost is shown.

    title: with its unit.
    scale: the number by which the cost is divided.
    digits: number of digits after the point.
    """

    title: str
    scale: float
    digits: int


COLUMNS = {
    "error_pct": Column("test error (%)", 1, 2),
    "validation_error_pct": Column("validation error (%)", 1, 2),
    "file_bytes": Column("file (kB)", 1e3, 1),
    "multiply_adds": Column("multiply-adds (millions)", 1e6, 2),
    "activation_bytes": Column("activations (kB)", 1e3, 1),
    "latency_ms": Column("time for one image (ms)", 1, 2),
}


def rows(result: Result) -> list[dict[str, str]]:
    """Return the costs as rows of a table, one for each network.

    result: of a run.

    Returns [{column title: text}].
    """
    return [
        {"network": name}
        | {column.title: number(getattr(one, key) / column.scale, column.digits) for key, column in COLUMNS.items()}
        for name, one in result.costs.items()
    ]


def ratios(before: Costs, after: Costs) -> dict[str, float]:
    """Return how many times smaller each cost has become, errors left out.

    before, after: costs of two networks that were measured together.

    >>> ratios(Costs(1.0, 1.0, 800, 10, 6, 3.0), Costs(1.0, 1.0, 200, 5, 6, 6.0))
    {'file_bytes': 4.0, 'multiply_adds': 2.0, 'activation_bytes': 1.0, 'latency_ms': 0.5}
    """
    first, second = asdict(before), asdict(after)
    return {key: first[key] / max(second[key], 1e-9) for key in COLUMNS if not key.endswith("error_pct")}


def summary(result: Result) -> str:
    """Sum up a run in one sentence.

    result: of a run.
    """
    before, after = result.costs[GIVEN], result.costs[SHRUNK]
    times = ratios(before, after)
    change = after.error_pct - result.costs.get(LONGER, before).error_pct
    moved = f"{number(abs(change), 2)} points {'more' if change > 0 else 'less'}" if change else "no more"
    against = "the unchanged network trained as long" if LONGER in result.costs else "the network as given"
    return (
        f"The file is {number(times['file_bytes'], 1)} times smaller and one image takes "
        f"{number(1 / times['latency_ms'], 2)} times as long, with {moved} test error than {against}."
    )


def markdown(result: Result, title: str, notes: Sequence[str] = ()) -> str:
    """Return the report of a run as a Markdown page.

    result: of a run.
    title: its first line.
    notes: sentences below the table.
    """
    table = rows(result)
    lines = [f"# {title}", "", summary(result), "", f"![{summary(result)}](costs.svg)", ""]
    lines += ["| " + " | ".join(table[0]) + " |", "| --- |" + " ---: |" * (len(table[0]) - 1)]
    lines += ["| " + " | ".join(row.values()) + " |" for row in table]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def draw(result: Result, path: str | Path) -> None:
    """Draw the costs after shrinking as shares of those before, and write the picture.

    result: of a run.
    path: of the SVG.
    """
    shares = {
        COLUMNS[key].title.split(" (")[0]: 100 / ratio
        for key, ratio in ratios(result.costs[GIVEN], result.costs[SHRUNK]).items()
    }
    figure, ax = figures.axes()
    places = range(len(shares))[::-1]
    ax.barh(list(places), list(shares.values()), color=figures.COMBINED["color"], height=0.6)
    ax.axvline(100, color="black", linewidth=1)
    for place, share in zip(places, shares.values(), strict=True):
        ax.annotate(f"{share:.0f} %", (share, place), xytext=(4, 0), textcoords="offset points", va="center")
    ax.set_yticks(list(places), list(shares))
    ax.set_xlabel("after shrinking (% of the network as given)")
    ax.set_xlim(0, 1.15 * max(100, *shares.values()))
    with figures.style():
        figure.suptitle(summary(result), x=0.01, ha="left", fontsize=10, wrap=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
