"""Which part of a chapter measures a claim: the section that shows its badge, or names most of its measurements."""

import re
from dataclasses import dataclass
from pathlib import Path

from lib.book import chapters
from lib.book.claims import Claim

HEADING = re.compile(r"#+ +(?P<title>.+)")
FENCE = re.compile(r"(?:```|~~~)")
CLOSING = {"In short", "Exercises", "Sources of this chapter"}  # they repeat what other parts of a chapter measure


@dataclass(frozen=True)
class Passage:
    """One section of a chapter: its heading, and its Markdown and code up to the next heading."""

    title: str
    text: str


def passages(root: Path, chapter: str) -> tuple[Passage, ...]:
    """Return the sections of a chapter's source, in their order; text before the first heading is left out.

    root: the book's folder.
    chapter: a chapter's name.
    Raises ValueError for an unknown chapter.
    """
    found: list[tuple[str, list[str]]] = []
    for cell in chapters.notebook(root, chapter).cells:
        fenced = False
        for line in cell.source.splitlines():
            fenced ^= bool(cell.cell_type == "markdown" and FENCE.match(line))
            heading = HEADING.match(line) if cell.cell_type == "markdown" and not fenced else None
            if heading:
                found.append((heading["title"].strip(), []))
            elif found:
                found[-1][1].append(line)
    return tuple(Passage(title, "\n".join(lines)) for title, lines in found)


def title(root: Path, chapter: str) -> str:
    """Return a chapter's title up to its colon; the chapter's name in words if it has no title.

    root: the book's folder.
    chapter: a chapter's name.
    Raises ValueError for an unknown chapter.
    """
    first = next(iter(passages(root, chapter)), Passage(chapter.replace("_", " ").capitalize(), ""))
    return first.title.partition(":")[0]


def measuring(claim: Claim, root: Path) -> tuple[str, str | None]:
    """Return the chapter that measures a claim, and the heading of its section; None for the chapter as a whole.

    claim: any claim; if its own chapter names none of its measurements, the chapter that records them is returned.
    root: the book's folder.
    Raises ValueError if its chapter does not exist.
    """
    keys = _keys(claim)
    others = sorted({key.partition(".")[0] for key in keys} & set(chapters.names(root)) - {claim.chapter})
    for chapter in (claim.chapter, *others):
        if heading := section(claim, passages(root, chapter)):
            return chapter, heading
    return claim.chapter, None


def section(claim: Claim, parts: tuple[Passage, ...]) -> str | None:
    """Return the heading of the section of a chapter that measures a claim; None if no section names it.

    A section with the claim's badge comes first, then the one that names most of its measurements; a section that only
    repeats what others measure comes last.

    claim: any claim.
    parts: the sections of a chapter, as :func:`passages` gives them.
    """
    body = [part for part in parts[1:] if part.title not in CLOSING]  # the first heading is the chapter's own
    if marked := [part for part in body if _shows(part, claim.id)]:
        return max(marked, key=lambda part: _named(part, _keys(claim))).title
    metrics = {key.rpartition(".")[2] for key in _keys(claim)}
    for named, names in ((_named, _keys(claim)), (_recorded, metrics)):
        best = max(body, key=lambda part: named(part, names), default=None)
        if best is not None and named(best, names):
            return best.title
    return next((part.title for part in parts[1:] if _shows(part, claim.id)), None)


def _keys(claim: Claim) -> set[str]:
    return {key for rules in claim.rules.values() for rule in rules for key in rule.keys}


def _shows(part: Passage, id: str) -> bool:
    return f"{{verdict}}`{id}`" in part.text


def _named(part: Passage, keys: set[str]) -> int:
    """How many of the keys a section names: in full, or as its code records them, without the chapter."""
    return sum(
        bool(re.search(rf"(?<![\w.]){re.escape(key)}(?!\.?\w)", part.text)) or f'"{key.partition(".")[2]}"' in part.text
        for key in keys
    )


def _recorded(part: Passage, metrics: set[str]) -> int:
    """How many of the metrics a section's code records for a subject that a variable names."""
    return sum(f'}}.{metric}"' in part.text for metric in metrics)
