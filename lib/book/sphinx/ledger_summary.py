"""The ledger at a glance: a bar of verdicts for each section of the survey, and the same numbers as a table.

Each part of a bar is a link that sets the filter of the ledger. Claims that a definition
decides, or that cannot be tested here, are counted beside the bars and not in them.
"""

from html import escape

from docutils import nodes

from lib.book import judging
from lib.book.claims import BY_DEFINITION, NOT_TESTABLE, SECTIONS, Claim
from lib.book.ledger import Records
from lib.book.sphinx.ledger_markdown import SIGNS
from lib.book.sphinx.parts import slug

APART = (BY_DEFINITION, NOT_TESTABLE)
FILTER = "filter"  # the id of the filter's place on the page
Row = tuple[str, dict[str, int]]  # the number of a section and its tally


def title(number: str) -> str:
    """Return the heading of a section of the ledger.

    >>> title("2.3")
    'Section 2.3: Pruning'
    """
    return f"Section {number}: {SECTIONS[number]}"


def rows(claims: list[Claim], profile: str, results: dict[str, Records]) -> list[Row]:
    """Count the claims of each section by verdict; sections without claims are left out.

    claims: all claims.
    profile: the profile of the build.
    results: {profile: measurements}.
    """
    sections = {number: [claim for claim in claims if claim.section == number] for number in SECTIONS}
    return [(number, judging.tally(own, profile, results)) for number, own in sections.items() if own]


def bars(tallies: list[Row]) -> str:
    """Return the bars as HTML: a list of sections, each with its name, its bar, and what is counted apart.

    tallies: as :func:`rows` returns them.
    """
    widest = max(sum(_measured(tally).values()) for _, tally in tallies) or 1
    items = "".join(_item(number, tally, widest) for number, tally in tallies)
    return f'<ul class="section-bars" aria-label="Claims by section">{items}</ul>'


def choices(titles: dict[str, str]) -> str:
    """Return the chapters that the filter offers as hidden HTML, which ``ledger.js`` reads.

    titles: {chapter: its title}.
    """
    items = "".join(f'<li data-of="{name}">{escape(title)}</li>' for name, title in sorted(titles.items()))
    return f"<ul hidden>{items}</ul>"


def table(tallies: list[Row], everything: dict[str, int]) -> str:
    """Return the same numbers as a table in HTML, with a last row for all sections.

    tallies: as :func:`rows` returns them.
    everything: how many claims have which verdict in all sections.
    """
    head = "".join(f'<th scope="col">{SIGNS[verdict]} {escape(verdict)}</th>' for verdict in everything)
    named = [(title(number), tally) for number, tally in tallies] + [("All sections", everything)]
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{tally.get(verdict, 0)}</td>" for verdict in everything)
        + "</tr>"
        for name, tally in named
    )
    return (
        '<div class="section-table" role="region" aria-label="Claims by section, as a table" tabindex="0"><table>'
        f'<thead><tr><th scope="col">Section</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _item(number: str, tally: dict[str, int], widest: int) -> str:
    name, measured = f"{number} {SECTIONS[number]}", _measured(tally)
    parts = "".join(_link(number, verdict, n, name, f"flex-grow: {n}") for verdict, n in measured.items())
    apart = "".join(_link(number, verdict, tally[verdict], name) for verdict in APART if verdict in tally)
    width = 100 * sum(measured.values()) / widest
    return (
        f'<li><a class="name" href="{_address(number)}">{escape(name)}</a>'
        f'<span class="bar" style="width: {width:.0f}%">{parts}</span><span class="apart">{apart}</span></li>'
    )


def _link(number: str, verdict: str, n: int, name: str, style: str = "") -> str:
    spoken = f'<span class="visually-hidden"> {escape(verdict)}, section {escape(name)}</span>'
    said = f"{SIGNS[verdict]}\N{NO-BREAK SPACE}{n}{spoken}"
    look = f' style="{style}"' if style else ""
    return f'<a class="verdict-{slug(verdict)}" href="{_address(number, verdict)}"{look}>{said}</a>'


def _address(number: str, verdict: str = "") -> str:
    asked = [f"verdict={slug(verdict)}"] if verdict else []
    return "?" + "&amp;".join([*asked, f"section={nodes.make_id(title(number))}"]) + f"#{FILTER}"


def _measured(tally: dict[str, int]) -> dict[str, int]:
    return {verdict: n for verdict, n in tally.items() if verdict not in APART}
