"""Sentences that state an outcome, and the rules that keep them true.

A chapter states an outcome with the role ``finding``: the words, a vertical bar, and the rule that must hold::

    Random filters {finding}`lose more | pruning.random.drop_points > pruning.taylor.drop_points`.

A rule is a chain of keys, numbers and differences of keys, with signs between them; ``;`` separates rules::

    a.b.c > a.b.d            the mean of one is above that of the other
    a.b.c >> 0               ... and so is the whole 95 % interval, seed by seed if both have as many values
    a.b.c - a.b.d <= 0.5     at most
    a.b.c ~ a.b.d            no difference is seen: the interval of the difference contains 0

The rule must hold in every profile that has records of its keys, or the build fails. Words that are true in one
profile only are chosen by the run instead: :func:`lib.evidence.phrase`.
"""

import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from lib.book import ledger, prose
from lib.book.claims import PROFILES
from lib.book.ledger import Records
from lib.evidence import interval

ROLE = re.compile(r"(?<!`` )\{finding\}`([^`|]+)\|([^`]+)`")  # not where it is quoted
SIGN = re.compile(r"\s(>>|<<|>=|<=|>|<|~)\s")
ORDERS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le}
NUMBER = re.compile(r"[-−]?\d+(?:\.\d+)?")
COMPUTED = re.compile(r"\{(?:glue:text|glue|mean|verdict|cite[:\w]*)\}`([^`]+)`")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z*\[{])")
COMPARES = re.compile(
    r"\b(?:more|less|fewer|better|worse|higher|lower|larger|smaller|greater|faster|slower|cheaper|than|best|worst|fewest"
    r"|(?<!at )most|(?<!at )least|largest|smallest|fastest|rises?|falls?|grows?|beats?|loses?|gains?|helps?|hurts?"
    r"|pays? off|as (?:well|good|fast|small|large) as|equals|outdo(?:es)?)\b"
)


def holds(rule: str, records: Records) -> bool:
    """Return whether a rule holds for the measurements.

    rule: in the form that the module's docstring describes.
    records: the measurements of one profile.
    Raises ValueError for a rule of another form, and for a key that was not recorded.

    >>> records = {"a.b.c": {"values": [2, 3, 4]}, "a.b.d": {"values": [1, 2.5, 2]}}
    >>> holds("a.b.c > a.b.d", records), holds("a.b.c >> a.b.d", records), holds("a.b.c ~ a.b.d > 1", records)
    (True, False, True)
    """
    for one in rule.split(";"):
        first, *rest = SIGN.split(f" {one.strip()} ".replace("−", "-"))
        if not rest:
            raise ValueError(f"the rule {one.strip()!r} compares nothing: accepted are >, <, >=, <=, >>, << and ~")
        left = _values(first, records)
        for sign, text in zip(rest[::2], rest[1::2], strict=True):
            right = _values(text, records)
            if not _compared(left, sign, right):
                return False
            left = right
    return True


def keys(rule: str) -> set[str]:
    """Return the keys that a rule names.

    >>> sorted(keys("a.b.c - a.b.d > 0.5; a.b.e < 2"))
    ['a.b.c', 'a.b.d', 'a.b.e']
    """
    return set(re.findall(r"[a-z]\w*(?:\.\w+){2,}", rule))


def ruled(root: Path) -> tuple[int, list[str]]:
    """Every finding that a page states holds in each profile with records of it."""
    profiles = {f"{name} records": ledger.load_results(name, root) for name in PROFILES}
    profiles |= {f"{name} build": ledger.load_results(name, root, built=True) for name in PROFILES}
    count, wrong = 0, []
    for place, _, text in prose.texts(root):
        for words, rule in ROLE.findall(text):
            count += 1
            known = {name: records for name, records in profiles.items() if keys(rule) <= records.keys()}
            if not known or not keys(rule):
                wrong.append(f"{place}: no profile has records for the finding {words.strip()!r}: {rule.strip()}")
            for name, records in known.items():
                try:
                    if not holds(rule, records):
                        wrong.append(f"{place} says {words.strip()!r}, but the {name} disagree: {rule.strip()}")
                except ValueError as error:
                    wrong.append(f"{place}: {error}")
    return count, list(dict.fromkeys(wrong))


def unruled(root: Path) -> tuple[int, list[str]]:
    """Every sentence of a chapter that compares measurements has a finding, or words that the run chooses."""
    measured = {key for name in PROFILES for key in ledger.load_results(name, root)}
    count, wrong = 0, []
    for place, sentence in _sentences(root):
        named = [found.split()[0] for found in COMPUTED.findall(sentence)]
        if not (set(named) & measured or sentence.startswith("**What to see.**")):
            continue
        said = COMPUTED.sub("", sentence)
        if compared := COMPARES.search(said):
            count += 1
            chosen = set(named) - measured  # phrases, verdicts and sources
            if not chosen and "{finding}" not in sentence:
                wrong.append(f"{place}: {compared[0]!r} has no rule: {' '.join(sentence.split())[:90]}")
    return count, wrong


GATES: dict[str, Callable[[Path], tuple[int, list[str]]]] = {"findings hold": ruled, "sentences with rules": unruled}


def _sentences(root: Path) -> Iterator[tuple[str, str]]:
    for place, _, text in prose.texts(root):
        if place.startswith("chapters/"):
            for block in re.split(r"\n\s*\n|\n(?=[-*|] |\d+\. )", text):
                for sentence in SENTENCE.split(block.strip()):
                    yield place, sentence


def _values(text: str, records: Records) -> list[float]:
    """The values of a key, of a difference of two keys, or a number."""
    first, *others = text.strip().split(" - ")
    if len(others) > 1:
        raise ValueError(f"{text.strip()!r} must be a key, a number or a difference of two keys")
    values = _of_one(first.strip(), records)
    return _difference(values, _of_one(others[0].strip(), records)) if others else values


def _of_one(text: str, records: Records) -> list[float]:
    if NUMBER.fullmatch(text):
        return [float(text.replace("−", "-"))]
    if text not in records:
        raise ValueError(f"{text!r} is neither a number nor a key that was recorded")
    return [float(value) for value in records[text]["values"]]


def _difference(one: list[float], other: list[float]) -> list[float]:
    if len(one) != len(other) and 1 not in (len(one), len(other)):
        one, other = [interval(one)[0]], [interval(other)[0]]
    n = max(len(one), len(other))
    spread = (values if len(values) == n else values * n for values in (one, other))
    return [a - b for a, b in zip(*spread, strict=True)]


def _compared(one: list[float], sign: str, other: list[float]) -> bool:
    mean, half = interval(_difference(one, other))
    if sign == "~":
        return abs(mean) <= half + 1e-12
    if sign in (">>", "<<"):
        return mean - half > 0 if sign == ">>" else mean + half < 0
    return bool(ORDERS[sign](mean, 0))
