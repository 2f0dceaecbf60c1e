"""The gates on how a page reads: sentences that can be said in one breath.

They look at the built pages, where numbers and verdicts stand in the sentences. Left out is what is no sentence of
ours, claims (the survey's words, and a rule) and quotations, and what is no sentence: formulas, code, tables, captions.
"""

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import soupsieve
from bs4 import BeautifulSoup, Tag

from lib.book.gates import Gate, built_pages

WORDS, NUMBERS = 30, 3  # of a sentence, at most
NOT_OURS = soupsieve.compile(
    ".claim, .facts, .refusals, .cell_output, .cost, blockquote, table, dl, .bibliography, .toctree-wrapper"
)
MACHINE = ("genindex", "search", "references")  # lists that are made from names and entries
PLACE = re.compile(r"\b(?:Fig\.|Figures?|Tables?|[Ss]ections?|[Ee]quations?|[Cc]hapters?)(?:\s\(?\d[\d.]*\)?)+")
NAME = re.compile(r"\b[A-Za-z]\w*(?:-\d+)+\b")  # LeNet-300-100
QUOTED = re.compile(r"“[^”]*”")
SHORT = "".join(rf"(?<!\b{word}\.)" for word in ("al", "vs", "e.g", "i.e", "cf"))  # no sentence ends with these
END = re.compile(SHORT + r"(?<=[.!?])[”’)]?\s+")
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d[\d,]*(?:\.\d+)?(?:\s?±\s?\d[\d.,]*)?")  # with its interval one number
WORD = re.compile(r"[^\W_][\w’'-]*")


def long_sentences(root: Path) -> tuple[int, list[str]]:
    """No sentence has more than 30 words."""
    return _checked(root, WORD, WORDS, "words")


def crowded_sentences(root: Path) -> tuple[int, list[str]]:
    """No sentence has more than three numbers: more of them belong in a table."""
    return _checked(root, NUMBER, NUMBERS, "numbers")


def _checked(root: Path, pattern: re.Pattern[str], most: int, what: str) -> tuple[int, list[str]]:
    count, wrong = 0, []
    for name, page in built_pages(root):
        if name.removesuffix(".html") not in MACHINE:
            for sentence in sentences(page):
                count += 1
                if (found := len(pattern.findall(sentence))) > most:
                    wrong.append(f"{name}: {found} {what} in one sentence, and {most} are the most: {sentence}")
    return count, wrong


def sentences(page: BeautifulSoup) -> Iterator[str]:
    """Yield the sentences of a page that we wrote, without citations, quotations, and where they point to.

    page: as it was built.
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
}
