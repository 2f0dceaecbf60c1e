"""A figure of a value against one of several costs: the reader chooses the cost, and which groups of points to see.

It is one SVG with radio buttons and checkboxes, and no script: a style sheet moves the points. On paper, in a notebook
that is not trusted and in a browser from before 2024 it shows the first cost, with all groups.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from IPython.display import display

from lib.figures.drawing import plain

WIDTH, HEIGHT = 600, 420
LEFT, RIGHT, TOP, BOTTOM = 58, 586, 44, 366  # of the axes; the legend is above them
LETTERS, SMALL = 15, 13  # height of letters: of axes and legend, and of names
WIDE = 0.58  # width of a letter, as a share of its height; a little more than in most fonts
SHAPES = {  # marker -> path around its center, at most RADIUS away
    "o": "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0Z",
    "s": "M-5.5-5.5h11v11h-11Z",
    "^": "M0-7L7 5.5H-7Z",
    "D": "M0-7L7 0L0 7L-7 0Z",
}
RADIUS = 7
STYLE = """
.cost-figure .choices {display: none}
.cost-figure fieldset {border: 0; display: flex; flex-wrap: wrap; gap: 0 1.2em; margin: 0; min-width: 0; padding: 0}
.cost-figure legend {float: none; font-size: 1em; font-weight: 600; margin: 0; width: auto}
.cost-figure label {cursor: pointer; padding: 0.2em 0}
.cost-figure svg {background: white; height: auto; max-width: 100%}
.cost-figure .found p {font-weight: 600; margin: 0.5em 0}
.cost-figure figcaption, .cost-figure figcaption * {color: inherit !important}
@media (prefers-reduced-motion: no-preference) {.cost-figure .point {transition: transform 0.4s}}
@media print {.cost-figure .choices {display: none !important}}
"""

Box = tuple[float, float, float, float]  # left, top, right, bottom
Mark = tuple[float, float, int]  # across, down, number of the group


@dataclass(frozen=True)
class Cost:
    """A cost that the reader may choose as the horizontal axis.

    choice: a word or two for its button.
    label: of its axis, with the unit.
    finding: a sentence that says what the figure shows with this cost.
    """

    choice: str
    label: str
    finding: str


@dataclass(frozen=True)
class Point:
    """One point.

    name: points of one name belong together; it is written beside one of them if there is room.
    group: a key of the figure's looks.
    value: its height.
    costs: one for each cost of the figure, above 0; nan if it was not measured, which hides the point with that cost.
    """

    name: str
    group: str
    value: float
    costs: tuple[float, ...]


def choosable(
    points: Sequence[Point],
    *,
    costs: Sequence[Cost],
    looks: Mapping[str, dict[str, Any]],
    ylabel: str,
    alt: str,
    name: str,
    caption: str,
) -> None:
    """Show points of a value against a cost that the reader chooses, on a logarithmic axis; groups can be left out.

    Points of one name have the same costs, and a line joins them.

    points: those with the most important names first, since there may not be room for all names.
    costs: two or more; the first is shown to begin with.
    looks: group -> look, one of :data:`lib.figures.LOOKS` with a marker of ``o``, ``s``, ``^`` and ``D``.
    ylabel: of the vertical axis, with its unit.
    alt: a text that replaces the picture and states its finding.
    name: the id of the figure.
    caption: shown below the figure.

    Raises ValueError for fewer than two costs or points, and for a cost that fewer than two points have. It is also
    raised for a point whose costs are not above 0 or do not match the figure's, for points of one name with different
    costs, for unknown groups and markers, and for a text, caption or finding of fewer than four words.
    """
    _check(points, costs, looks, name, {"alt": alt, "caption": caption})
    values = [point.value for point in points]
    low, high = 5 * math.floor(min(values) / 5), 5 * math.ceil(max(values) / 5)

    def down(value: float) -> float:
        return round(BOTTOM - (value - low) * (BOTTOM - TOP) / max(high - low, 5), 1)

    axes = [_Axis([point.costs[i] for point in points if point.costs[i] > 0]) for i in range(len(costs))]
    groups = list(looks)
    first: dict[str, int] = {}
    marks: list[str] = []
    for i, point in enumerate(points):
        first.setdefault(point.name, i)
        across = [axis.across(cost) for axis, cost in zip(axes, point.costs, strict=True)]
        at, look, one = groups.index(point.group), looks[point.group], points[first[point.name]]
        if one is not point:
            line = f'<path d="M0 0V{down(one.value) - down(point.value):.1f}" stroke="#8c8c8c"/>'
            marks.insert(0, _moving(across, down(point.value), {at, groups.index(one.group)}, line))
        said = html.escape(f"{point.name}, {point.group}: {point.value:.1f}")
        shape = f'<title>{said}</title><path d="{SHAPES[look["marker"]]}" {_paint(look)}/>'
        marks.append(_moving(across, down(point.value), {at}, shape))
    scales = []
    for i, (cost, axis) in enumerate(zip(costs, axes, strict=True)):
        dots = [(axis.across(point.costs[i]), down(point.value)) for point in points]
        marked: dict[str, list[Mark]] = {title: [] for title in first}
        for point, (x, y) in zip(points, dots, strict=True):
            marked[point.name] += [] if x is None else [(x, y, groups.index(point.group))]
        names = _names(marked)
        label = (
            f'<text x="{(LEFT + RIGHT) // 2}" y="{HEIGHT - 10}" text-anchor="middle">{html.escape(cost.label)}</text>'
        )
        unseen = ' display="none"' if i else ""
        scales.append(f'<g class="by c{i}"{unseen}>{axis.ticks()}{label}{names}</g>')
    levels = "".join(
        f'<path d="M{LEFT} {down(y)}H{RIGHT}" stroke="#e4e4e4"/>'
        f'<text x="{LEFT - 8}" y="{down(y) + 5}" text-anchor="end">{y}</text>'
        for y in range(low, high + 1, 5)
    )
    levels += (
        f'<text transform="translate(16 {(TOP + BOTTOM) // 2}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(ylabel)}</text>"
    )
    unseen = ' style="display: none"'
    findings = "".join(
        f'<p class="by c{i}"{unseen if i else ""}>{html.escape(cost.finding)}</p>' for i, cost in enumerate(costs)
    )
    display(
        {
            "text/html": (
                f'<figure class="cost-figure" id="{name}"><style>{STYLE}{_rules(name, len(costs), len(groups))}</style>'
                f'<div class="choices">{_choices(name, costs, groups)}</div>'
                f'<div class="found" aria-live="polite">{findings}</div>'
                f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(alt)}"'
                f' font-size="{LETTERS}" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">'
                f"{levels}{_legend(looks)}{''.join(scales)}{''.join(marks)}</svg>"
                f"<figcaption><p>{html.escape(caption)}</p></figcaption></figure>"
            ),
            "text/plain": alt,
        },
        raw=True,
    )


class _Axis:
    """A logarithmic axis that reaches a little beyond its costs."""

    def __init__(self, costs: list[float]) -> None:
        self.low, self.high = (math.log10(edge(costs)) for edge in (min, max))
        room = 0.06 * max(self.high - self.low, 0.5)
        self.low, self.high = self.low - room, self.high + room

    def across(self, cost: float) -> float | None:
        """Where a cost is on the axis, or None if there is none."""
        share = (math.log10(cost) - self.low) / (self.high - self.low) if cost > 0 else None
        return None if share is None else round(LEFT + share * (RIGHT - LEFT), 1)

    def ticks(self) -> str:
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        inside = [
            [
                step * 10.0**power
                for power in powers
                for step in steps
                if self.low <= math.log10(step) + power <= self.high
            ]
            for steps in ((1, 2, 5), (1, 3), (1,))
        ]
        chosen = next((ticks for ticks in inside if len(ticks) <= 10), inside[-1])
        return "".join(
            f'<path d="M{self.across(tick)} {TOP}V{BOTTOM}" stroke="#e4e4e4"/>'
            f'<text x="{self.across(tick)}" y="{BOTTOM + 20}" text-anchor="middle">{plain(tick)}</text>'
            for tick in chosen
        )


def _moving(across: list[float | None], down: float, groups: set[int], content: str) -> str:
    """A group that moves across when another cost is chosen, and is hidden if its cost is not known."""
    absent = [f"no{i}" for i, place in enumerate(across) if place is None]
    kinds = " ".join(["point", *(f"g{group}" for group in sorted(groups)), *absent])
    places = "".join(f"--x{i}:{place}px;" for i, place in enumerate(across) if place is not None)
    unseen = ' display="none"' if across[0] is None else ""
    return (
        f'<g class="{kinds}" transform="translate({across[0] or 0} {down})" style="{places}--y:{down}px"{unseen}>'
        f"{content}</g>"
    )


def _names(marked: Mapping[str, list[Mark]]) -> str:
    """Write each name beside one of its marks, in the first place where it covers nothing, or not at all."""
    taken: list[Box] = [
        (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for marks in marked.values() for x, y, _ in marks
    ]
    joined = [[(x, y) for x, y, _ in marks] for marks in marked.values() if marks]
    taken += [(line[0][0] - 1, min(line)[1], line[0][0] + 1, max(line)[1]) for line in joined]
    far, texts = RADIUS + 2, []
    for name, marks in marked.items():
        wide = WIDE * SMALL * len(name)
        beside = [(far, 5), (-far - wide, 5)]
        beside += [(right, down) for down in (-far - 3, far + 11) for right in (-wide / 2, 0, -wide)]  # above, below
        for left, base, group in ((x + right, y + down, at) for x, y, at in marks for right, down in beside):
            box = (left, base - SMALL + 2, left + wide, base + 3)
            inside = box[0] > LEFT and box[1] > TOP and box[2] < RIGHT and box[3] < BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                texts.append(
                    f'<text class="g{group}" x="{left + wide / 2:.1f}" y="{base:.1f}" text-anchor="middle"'
                    f' font-size="{SMALL}">{html.escape(name)}</text>'
                )
                break
    return "".join(texts)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _paint(look: dict[str, Any]) -> str:
    color = html.escape(look["color"])
    hollow = look.get("markerfacecolor") in ("none", "white")
    return f'fill="{"white" if hollow else color}" stroke="{color}" stroke-width="1.5"'


def _legend(looks: Mapping[str, dict[str, Any]]) -> str:
    parts, x = [], float(LEFT + RADIUS)
    for i, (group, look) in enumerate(looks.items()):
        parts.append(
            f'<g class="g{i}"><path transform="translate({x:.0f} 20)" d="{SHAPES[look["marker"]]}" {_paint(look)}/>'
            f'<text x="{x + 13:.0f}" y="25">{html.escape(group)}</text></g>'
        )
        x += 34 + WIDE * LETTERS * len(group)
    return "".join(parts)


def _choices(name: str, costs: Sequence[Cost], groups: list[str]) -> str:
    def field(legend: str, kind: str, words: list[str], checked: int) -> str:
        inputs = "".join(
            f'<label><input type="{kind}" name="{name}-{kind}" value="{i}"{" checked" if i < checked else ""}>'
            f" {html.escape(word)}</label>"
            for i, word in enumerate(words)
        )
        return f"<fieldset><legend>{legend}</legend>{inputs}</fieldset>"

    return field("Cost:", "radio", [cost.choice for cost in costs], 1) + field("Show:", "checkbox", groups, len(groups))


def _rules(name: str, costs: int, groups: int) -> str:
    """The style sheet that shows what is chosen. In a browser that does not know :has it has no effect."""
    rules = [f"#{name} .choices {{display: block}}"]
    for i in range(costs):
        chosen = f'#{name}:has([type="radio"][value="{i}"]:checked)'
        rules += [
            f"{chosen} .point {{display: inline; transform: translate(var(--x{i}), var(--y))}}",
            f"{chosen} :is(.no{i}, .by:not(.c{i})) {{display: none !important}}",
            f"{chosen} p.c{i} {{display: block !important}}",
            f"{chosen} g.c{i} {{display: inline}}",
        ]
    for i in range(groups):
        rules.append(f'#{name}:has([type="checkbox"][value="{i}"]:not(:checked)) .g{i} {{display: none !important}}')
    return "@supports selector(:has(*)) {" + "\n".join(rules) + "}"


def _check(
    points: Sequence[Point],
    costs: Sequence[Cost],
    looks: Mapping[str, dict[str, Any]],
    name: str,
    texts: dict[str, str],
) -> None:
    for what, text in (texts | {f"finding of the cost {cost.choice!r}": cost.finding for cost in costs}).items():
        if len(text.split()) < 4:
            raise ValueError(f"{what} of figure {name!r} is {text!r}: a sentence that states the finding is needed")
    if len(costs) < 2 or len(points) < 2:
        raise ValueError(f"figure {name!r} has {len(costs)} costs and {len(points)} points; two or more are needed")
    for group, look in looks.items():
        if look["marker"] not in SHAPES:
            raise ValueError(f"the marker of {group!r} must be one of {', '.join(SHAPES)}, not {look['marker']!r}")
    first: dict[str, Point] = {}
    for point in points:
        if point.group not in looks:
            raise ValueError(f"the group of {point.name!r} must be one of {', '.join(looks)}, not {point.group!r}")
        right = all(math.isnan(cost) or 0 < cost < math.inf for cost in point.costs)
        if len(point.costs) != len(costs) or not right or not math.isfinite(point.value):
            raise ValueError(
                f"{point.name!r} has the value {point.value} and the costs {point.costs}; needed are a finite value and"
                f" {len(costs)} costs above 0, nan where one is not known"
            )
        one = first.setdefault(point.name, point)
        if not np.array_equal(one.costs, point.costs, equal_nan=True):
            raise ValueError(f"{point.name!r} has the costs {one.costs} and {point.costs}; one name has the same costs")
    for i, cost in enumerate(costs):
        if sum(point.costs[i] > 0 for point in points) < 2:
            raise ValueError(f"two or more points must have the cost {cost.choice!r}")
