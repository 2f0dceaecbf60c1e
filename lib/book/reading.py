"""The gates on how a page reads: short sentences with few numbers, and openings that are easy to understand.

They check the built pages, whose sentences contain the numbers and verdicts. Claims and quotations are left out, since
others wrote them, and so are formulas, code, tables and captions, which are not sentences.
"""

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import pyphen
import soupsieve
from bs4 import BeautifulSoup, Tag

from lib.book import chapters
from lib.book.form import opening
from lib.book.gates import Gate, built_pages

WORDS, NUMBERS, GRADE = 30, 3, 11  # at most: words and numbers of a sentence, school years that an opening needs
NOT_OURS = soupsieve.compile(
    ".claim, .section-bars, .facts, .refusals, .cell_output, .cost, blockquote, table, dl, .bibliography,"
    " .toctree-wrapper"
)
MACHINE = ("genindex", "search", "references")  # lists that are made from names and entries
PLACE = re.compile(r"\b(?:Fig\.|Figures?|Tables?|[Ss]ections?|[Ee]quations?|[Cc]hapters?)(?:\s\(?\d[\d.]*\)?)+")
NAME = re.compile(r"\b[A-Za-z]\w*(?:-\d+)+\b")  # LeNet-300-100
QUOTED = re.compile(r"“[^”]*”")
SHORT = "".join(rf"(?<!\b{word}\.)" for word in ("al", "vs", "e.g", "i.e", "cf"))  # no sentence ends with these
END = re.compile(SHORT + r"(?<=[.!?])[”’)]?\s+")
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d[\d,]*(?:\.\d+)?(?:\s?±\s?\d[\d.,]*)?")  # an interval is no second number
SYLLABLES = pyphen.Pyphen(lang="en_US")
WORD = re.compile(r"[^\W_][\w’'-]*")


def long_sentences(root: Path) -> tuple[int, list[str]]:
    """No sentence has more than 30 words."""
    return _checked(root, WORD, WORDS, "words")


def crowded_sentences(root: Path) -> tuple[int, list[str]]:
    """No sentence has more than three numbers: more of them belong in a table."""
    return _checked(root, NUMBER, NUMBERS, "numbers")


def hard_openings(root: Path) -> tuple[int, list[str]]:
    """The opening of a chapter needs at most eleven years of school, by the Flesch-Kincaid grade."""
    count, wrong, built = 0, [], dict(built_pages(root))
    for chapter in chapters.names(root):
        if (page := built.get(f"chapters/{chapter}.html")) is not None:
            parts = [part for part in opening(page) if part.name == "p"]
            if any(part.select_one(".problematic") for part in parts):
                continue  # an unresolved role, on a page without a run: another gate reports it
            text = " ".join(map(_text, parts))
            if not WORD.search(text):
                continue  # another gate reports a page without an opening
            grade = school_years(text)
            count += 1
            if grade > GRADE:
                wrong.append(f"{chapter}: its opening reads at grade {grade:.1f}, above the limit of {GRADE}: {text}")
    return count, wrong


def school_years(text: str) -> float:
    r"""Return how many years of school a text needs, by the Flesch-Kincaid grade.

    .. math:: 0.39 \frac{\text{words}}{\text{sentences}} + 11.8 \frac{\text{syllables}}{\text{words}} - 15.59

    text: English sentences, with at least one word.

    >>> round(school_years("The cat sat on the mat."), 1)
    -1.4
    """
    words = [word for word in WORD.findall(text) if not word[0].isdigit()]
    syllables = sum(len(SYLLABLES.positions(word)) + 1 for word in words)
    return 0.39 * len(words) / len(END.split(text)) + 11.8 * syllables / len(words) - 15.59


def _checked(root: Path, pattern: re.Pattern[str], most: int, what: str) -> tuple[int, list[str]]:
    count, wrong = 0, []
    for name, page in built_pages(root):
        if name.removesuffix(".html") not in MACHINE:
            for sentence in sentences(page):
                count += 1
                if (found := len(pattern.findall(sentence))) > most:
                    wrong.append(f"{name}: {found} {what} in one sentence, at most {most} are allowed: {sentence}")
    return count, wrong


def sentences(page: BeautifulSoup) -> Iterator[str]:
    """Yield the sentences of a page that we wrote, without citations, quotations and references to other places.

    page: a built page.
    """
    article = page.find("article") or page
    for part in article.find_all(["p", "li"]):
        if not (_not_ours(part) or part.find_parent(_not_ours)) and not (
            part.name == "li" and part.find(["p", "ul", "ol"])
        ):
            yield from filter(WORD.search, END.split(_text(part)))


def _not_ours(tag: Tag) -> bool:
    return NOT_OURS.match(tag)


def _text(part: Tag) -> str:
    part = copy.copy(part)  # the page itself stays whole for the other gates
    for tag in part.select(".verdict, .bibtex-citation a"):
        tag.decompose()
    for tag in part.select("code, .math, q"):
        tag.replace_with("X")
    text = re.sub(r"\s+", " ", part.get_text()).strip()
    for pattern, instead in ((QUOTED, "X"), (PLACE, "there"), (NAME, "X")):
        text = pattern.sub(instead, text)
    return text


GATES: dict[str, Gate] = {
    "long sentences": long_sentences,
    "crowded sentences": crowded_sentences,
    "hard openings": hard_openings,
}
