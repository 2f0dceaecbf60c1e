"""The gates on the form of a chapter: its opening, its findings, its figures, its exercises.

Like those of :mod:`lib.book.gates`, each returns how many things it checked, and a sentence for each fault.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from lib.book import chapters, ledger
from lib.book.claims import PROFILES
from lib.book.gates import Gate, built_pages
from lib.evidence import SHARES

ASKING = re.compile(r"\*\*What to see\.\*\*\s+((?:Compare|Look|See|Note|Notice|Watch|Find)\b[^.]*)")
DENSE = re.compile(r"(?:baseline|dense|float)(?:_\w+)?_error_pct$")
CHANCE = 75.0  # %: guessing among ten classes misses 90 %, so a network near that has not learned
DRAWING = {"show", "curves"}  # of lib.figures


def openings(root: Path) -> tuple[int, list[str]]:
    """A chapter's page begins with its message: sentences without intervals, then its figure, before any heading."""
    count, wrong, built = 0, [], dict(built_pages(root))
    for chapter in chapters.names(root):
        page = built.get(f"chapters/{chapter}.html")
        if page is None:
            continue
        count += 1
        before = list(opening(page))
        text = " ".join(part.get_text() for part in before if part.name == "p")
        if "±" in text:
            wrong.append(f"{chapter}: its opening has an interval: show the mean alone, with the role mean")
        if not any(part.name == "figure" or part.find("figure") for part in before):
            wrong.append(f"{chapter}: its opening has no figure: mark the one that carries the message with lead=True")
    return count, wrong


def opening(page: BeautifulSoup) -> Iterator[Tag]:
    """What a page shows between its title and the first heading or folded box below it."""
    title = page.select_one("article h1")  # the theme has one for print before it
    for part in title.find_next_siblings() if title else []:
        if part.name in ("section", "details", "h2") or part.find(["h2", "details"]):
            return
        yield part


def findings(root: Path) -> tuple[int, list[str]]:
    """A chapter says what there is to see, and never asks the reader to find it."""
    count, wrong = 0, []
    for chapter in chapters.names(root):
        for cell in chapters.notebook(root, chapter).cells:
            if cell.cell_type == "markdown":
                count += cell.source.count("**What to see.**")
                wrong += [f"{chapter}: {found[1]!r} asks for the finding" for found in ASKING.finditer(cell.source)]
    return count, wrong


def figures_say(root: Path) -> tuple[int, list[str]]:
    """Every figure states its finding, one per chapter is shown first, and only lib.figures draws intervals."""
    count, wrong = 0, []
    for chapter in chapters.names(root):
        leads, own = 0, set()
        for call in _calls(root, chapter):
            given = {keyword.arg for keyword in call.keywords}  # None where a dictionary of words is passed on
            name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            leads += "lead" in given
            own |= {name} & {"interval", "errorbar"}
            if name in DRAWING and "alt" in given:
                count += 1
                if not given & {"finding", None}:
                    wrong.append(f"{chapter}: the figure in line {call.lineno} of its code has no finding")
        if len(own) == 2:
            wrong.append(f"{chapter}: it draws an interval itself: use figures.line or figures.dots")
        if leads != 1:
            wrong.append(f"{chapter}: {leads} figures are marked with lead=True: exactly one must be")
    return count, wrong


def exercises(root: Path) -> tuple[int, list[str]]:
    """Every solution states its answer in a sentence."""
    count, wrong = 0, []
    for chapter in chapters.names(root):
        inside = False
        for cell in chapters.notebook(root, chapter).cells:
            inside = inside or cell.source.startswith("## Exercises") or "\n## Exercises" in cell.source
            if inside and cell.cell_type == "code":
                count += 1
                if "evidence.answer(" not in cell.source:
                    wrong.append(f"{chapter}: the solution {cell.source.splitlines()[0]!r} ... has no answer")
    return count, wrong


def learned(root: Path) -> tuple[int, list[str]]:
    """No baseline network is at chance level, and shares lie between 0 and 100 %."""
    count, wrong = 0, []
    for profile in PROFILES:
        for key, record in ledger.load_results(profile, root).items():
            values, count = record["values"], count + 1
            if SHARES.search(key) and (min(values) < 0 or max(values) > 100):
                wrong.append(f"{profile}: {key} is not between 0 and 100 %: {min(values)} to {max(values)}")
            if DENSE.search(key) and sum(values) / len(values) > CHANCE:
                wrong.append(f"{profile}: {key} is at chance: train the network, or leave it out of this profile")
    return count, wrong


GATES: dict[str, Gate] = {
    "openings": openings,
    "findings": findings,
    "figures that say": figures_say,
    "exercises": exercises,
    "networks that learned": learned,
}


def _calls(root: Path, chapter: str) -> Iterator[ast.Call]:
    code = "\n".join(cell.source for cell in chapters.notebook(root, chapter).cells if cell.cell_type == "code")
    return (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
