"""The glossary: its terms, the chapters that mark them, and its table of notation."""

import re
from pathlib import Path

import pytest

from lib.book import chapters

PROJECT = Path(__file__).parents[2]
GLOSSARY = (PROJECT / "glossary.md").read_text("utf-8")
ENTRIES = dict(re.findall(r"^(\S[^\n]*)\n((?:  [^\n]+\n|\n(?=  ))+)", GLOSSARY.split("```{glossary}")[1], re.MULTILINE))
USE = re.compile(r"\{term\}`(?:[^`<]*<)?([^`<>]+)>?`")
FORMULA = re.compile(r"\$\$?(.+?)\$\$?", re.DOTALL)
ROWS = re.findall(r"^\| (\$.*\$) \| (.+) \| (.*) \|$", GLOSSARY, re.MULTILINE)
MOST = 8  # marked words of a chapter: more of them would hide the text


def prose(chapter: str) -> str:
    """All Markdown of a chapter."""
    cells = chapters.notebook(PROJECT, chapter).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def occurs(symbol: str, formulas: str) -> bool:
    """Whether a symbol is in one of these formulas, and not only as the beginning of a command."""
    return re.search(re.escape(symbol) + r"(?![A-Za-z])", formulas) is not None


def test_entries_are_in_order_and_short():
    assert len(ENTRIES) >= 70
    assert list(ENTRIES) == sorted(ENTRIES, key=str.lower)
    meanings = {term: text.split("\n\n")[0] for term, text in ENTRIES.items()}
    assert [term for term, text in meanings.items() if not 1 <= len(re.findall(r"\w[.](?:\s|$)", text)) <= 2] == []
    assert [term for term, text in ENTRIES.items() if not re.search(r"\n  See \{(?:doc|ref)\}`[^`]+`\.", text)] == []


@pytest.mark.parametrize("chapter", chapters.names(PROJECT))
def test_a_chapter_marks_a_few_terms_of_the_glossary_once(chapter):
    used = USE.findall(prose(chapter))
    assert {term.lower() for term in used} <= {term.lower() for term in ENTRIES}
    assert len(used) == len(set(used)) <= MOST


def test_most_chapters_mark_terms():
    marking = [chapter for chapter in chapters.names(PROJECT) if USE.search(prose(chapter))]
    assert len(marking) >= 30


def test_every_symbol_is_in_formulas_of_the_chapters_named():
    assert len(ROWS) >= 30
    wrong = []
    for symbols, _, named in ROWS:
        formulas = {name: " ".join(FORMULA.findall(prose(name))) for name in re.findall(r"<chapters/(\w+)>", named)}
        for symbol in re.findall(r"\$([^$]+)\$", symbols):
            wrong += [(symbol, "nowhere")] if not any(occurs(symbol, text) for text in formulas.values()) else []
        wrong += [(symbols, name) for name, text in formulas.items() if not has_one(symbols, text)]
    assert wrong == []


def has_one(symbols: str, formulas: str) -> bool:
    """Whether one of the symbols of a row is in these formulas."""
    return any(occurs(symbol, formulas) for symbol in re.findall(r"\$([^$]+)\$", symbols))


def test_a_symbol_that_no_formula_has_is_seen():
    assert not occurs(r"\rho", r"\rhos + x")
    assert occurs(r"\rho", r"\rho_1 + x")
