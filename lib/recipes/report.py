"""What a run came to: a table in words, one sentence for each cost, and a figure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lib import figures
from lib.evidence import number
from lib.recipes.costs import Costs
from lib.recipes.following import GIVEN, SHRUNK, Result


@dataclass(frozen=True)
class Column:
    """One cost as a reader sees it.

    title: with its unit.
    unit: as the unit stands behind a number.
    scale: by which a cost is divided.
    digits: after the point.
    """

    title: str
    unit: str
    scale: float
    digits: int


COLUMNS = {
    "error_pct": Column("test error (%)", "%", 1, 2),
    "file_bytes": Column("file (kB)", "kB", 1e3, 1),
    "multiply_adds": Column("multiply-adds (millions)", "million", 1e6, 2),
    "activation_bytes": Column("activations (kB)", "kB", 1e3, 1),
    "latency_ms": Column("time for one image (ms)", "ms", 1, 2),
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
    """Return how many times smaller each cost has become, the error left out.

    before, after: costs of two networks that were measured together.

    >>> one = Costs(error_pct=1, file_bytes=800, multiply_adds=10, activation_bytes=6, latency_ms=3)
    >>> ratios(one, Costs(error_pct=1, file_bytes=200, multiply_adds=5, activation_bytes=6, latency_ms=6))
    {'file_bytes': 4.0, 'multiply_adds': 2.0, 'activation_bytes': 1.0, 'latency_ms': 0.5}
    """
    first, second = asdict(before), asdict(after)
    return {key: first[key] / max(second[key], 1e-9) for key in COLUMNS if key != "error_pct"}


def summary(result: Result) -> str:
    """Return what came out in one sentence.

    result: of a run.
    """
    before, after = result.costs[GIVEN], result.costs[SHRUNK]
    times = ratios(before, after)
    change = after.error_pct - before.error_pct
    moved = (
        "the same test error"
        if not change
        else f"{number(abs(change), 2)} points {'more' if change > 0 else 'less'} test error"
    )
    return (
        f"The file is {number(times['file_bytes'], 1)} times smaller and one image takes "
        f"{number(1 / times['latency_ms'], 2)} of the time, with {moved}."
    )


def markdown(result: Result, title: str, notes: Sequence[str] = ()) -> str:
    """Return the report of a run as a Markdown page.

    result: of a run.
    title: its first line.
    notes: sentences below the table.
    """
    table = rows(result)
    lines = [f"# {title}", "", summary(result), ""]
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
