"""Questions to readers, and the rules that keep their answers true: ``survey/quizzes.yml``.

The file is a mapping with two parts::

    quizzes:
      "2.3":                              # a section of the survey: three questions
        - ask: Does a network run faster once nine tenths of its weights are zero?
          choices: [Ten times faster, About twice as fast, No]
          right: 3                        # place of the right choice, from 1
          because: Markdown with the reason; its numbers come from records, with {mean} or {verdict}
          rule: pruning.masked.latency_ratio > 1; C2.3-38 contradicted
    predictions:
      masked-time:                        # a name, which a page gives to the directive {predict}
        ask: How long does it take?
        key: pruning.masked.latency_ratio # the measurement that decides which choice is right
        choices:
          - {says: Half of the time, below: 0.7}
          - {says: About the same time, below: 1.3}
          - {says: Longer}                # the last one has no bound
        because: Markdown, true whichever choice is right
        rule: optional, for what ``because`` says beyond the measurement

A rule consists of parts separated by ``;``: rules of :mod:`lib.book.findings`, and ``<claim> <verdict>``. At least one
profile must have records for it, and it must hold in each that has, or the build fails. A claim whose verdict depends
on the processor cannot decide a question.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lib.book import findings, judging, ledger, prose
from lib.book.claims import NOT_TESTABLE, PROFILES, PUBLISHED, SECTIONS, UNDECIDED, VERDICTS, Claim
from lib.book.ledger import Records
from lib.evidence import KEY, interval

FILE = Path("survey", "quizzes.yml")
LONG = 3  # questions of a quiz
QUESTION = {"ask", "choices", "right", "because", "rule"}
PREDICTION = {"ask", "choices", "key", "because"}
VERDICT = re.compile(rf"((?:C[\d.]+|T1)-\d\d) ({'|'.join(VERDICTS)})")
NAME = re.compile(r"[a-z][a-z0-9-]*")
USE = re.compile(r"^ *(?:`{3,}|:{3,})\{(quiz|predict)\}[ \t]+(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """A question with three or four choices; ``right`` is the position of the right one, from 0."""

    ask: str
    choices: tuple[str, ...]
    right: int
    because: str
    rule: str


@dataclass(frozen=True)
class Prediction:
    """A question whose right choice a measurement decides: it is the first one whose bound is above the mean."""

    name: str
    ask: str
    choices: tuple[str, ...]
    bounds: tuple[float, ...]
    key: str
    because: str
    rule: str | None = None

    def right(self, records: Records) -> int:
        """Return the position of the right choice, from 0.

        records: the measurements of one profile.
        Raises ValueError if the key was not measured.

        >>> found = {"a.b.c": {"values": [1.0, 3.0]}}
        >>> Prediction("x", "How much?", ("little", "much"), (1.5, math.inf), "a.b.c", "So.").right(found)
        1
        """
        if self.key not in records:
            raise ValueError(f"prediction {self.name}: {self.key!r} was not measured")
        mean = interval(records[self.key]["values"])[0]
        return next(place for place, bound in enumerate(self.bounds) if mean < bound)


@dataclass(frozen=True)
class Quizzes:
    """All questions: ``sections`` is {section: three questions}, ``predictions`` {name: prediction}."""

    sections: Mapping[str, tuple[Question, ...]]
    predictions: Mapping[str, Prediction]


def load(root: Path) -> Quizzes:
    """Return the questions of the book at ``root``; none if it has no file of questions.

    root: the book's folder.
    Raises ValueError, with one sentence, for anything wrong with the file.
    """
    path = root / FILE
    if not path.exists():
        return Quizzes({}, {})
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not readable YAML: {' '.join(str(error).split())}") from error
    return parsed(content)


def parsed(content: Any) -> Quizzes:
    """Check the content of a file of questions, and return the questions.

    content: as YAML gives it.
    Raises ValueError, with one sentence, for anything wrong with it.

    >>> two = [{"says": "little", "below": 1}, {"says": "more", "below": 2}, {"says": "much"}]
    >>> one = {"ask": "How much?", "key": "a.b.c", "choices": two, "because": "So it is."}
    >>> parsed({"quizzes": {}, "predictions": {"amount": one}}).predictions["amount"].bounds
    (1, 2, inf)
    """
    if not isinstance(content, dict) or set(content) != {"quizzes", "predictions"}:
        raise ValueError(f"{FILE.name} must be a mapping of quizzes and predictions")
    for name, part in content.items():
        if not isinstance(part, dict):
            raise ValueError(f"{FILE.name}: its {name} must be a mapping, not {part!r}")
    sections = {str(section): _quiz(section, rows) for section, rows in content["quizzes"].items()}
    predictions = {str(name): _prediction(name, row) for name, row in content["predictions"].items()}
    return Quizzes(sections, predictions)


def fault(rule: str, claims: Mapping[str, Claim], results: Mapping[str, tuple[str, Records]]) -> str | None:
    """Return why a rule does not hold, as one sentence, or None.

    rule: in the form that the module's docstring describes.
    claims: {id: claim}.
    results: {name in messages: (profile, measurements)}; those that lack what the rule needs are skipped.
    """
    for part in filter(None, map(str.strip, rule.split(";"))):
        said = VERDICT.fullmatch(part)
        wrong = _verdict_fault(said[1], said[2], claims, results) if said else _finding_fault(part, results)
        if wrong:
            return wrong
    return None


def faults(root: Path, quizzes: Quizzes) -> list[str]:
    """Return a sentence for each answer that does not hold in the committed records or in the last build.

    root: the book's folder.
    quizzes: its questions.
    """
    claims = {claim.id: claim for claim in ledger.load_claims(root)}
    results = {f"{name} records": (name, ledger.load_results(name, root)) for name in PROFILES}
    results |= {f"{name} build": (name, ledger.load_results(name, root, built=True)) for name in PROFILES}
    wrong = []
    for section, questions in quizzes.sections.items():
        for number, question in enumerate(questions, 1):
            if said := fault(question.rule, claims, results):
                wrong.append(f"quiz {section}, question {number}: {said}")
    for name, prediction in quizzes.predictions.items():
        if prediction.rule and (said := fault(prediction.rule, claims, results)):
            wrong.append(f"prediction {name}: {said}")
        if not any(prediction.key in records for _, records in results.values()):
            wrong.append(f"prediction {name}: no profile has records of {prediction.key!r}")
    return wrong


def gate(root: Path) -> tuple[int, list[str]]:
    """Every answer holds, every question is on one page, and no reason has a typed number.

    root: the book's folder.
    Returns how many questions there are, plus one for the file, and a sentence for each fault.
    """
    try:
        quizzes = load(root)
        wrong = faults(root, quizzes)
    except ValueError as error:
        return 1, [str(error)]
    asked = {("quiz", section) for section in quizzes.sections} | {("predict", name) for name in quizzes.predictions}
    used = [found for _, _, text in prose.texts(root) for found in USE.findall(text)]
    for kind, name in sorted(asked):
        if (count := used.count((kind, name))) != 1:
            wrong.append(f"{{{kind}}} {name} is on {count} pages: it must be on one")
    wrong += [f"a page has {{{kind}}} {name}, and {FILE} does not" for kind, name in sorted(set(used) - asked)]
    reasons = [question.because for questions in quizzes.sections.values() for question in questions]
    reasons += [prediction.because for prediction in quizzes.predictions.values()]
    for reason in reasons:
        if typed := prose.typed(reason):
            wrong.append(f"{FILE} types {typed!r} in a reason: show a recorded value")
    return len(reasons) + 1, wrong


GATES: dict[str, Callable[[Path], tuple[int, list[str]]]] = {"quizzes": gate}


def _quiz(section: Any, rows: Any) -> tuple[Question, ...]:
    if section not in SECTIONS:
        raise ValueError(
            f"a quiz must be named by its section, in quotes, one of {', '.join(SECTIONS)}, not {section!r}"
        )
    if not isinstance(rows, list) or len(rows) != LONG:
        raise ValueError(f"quiz {section}: it must have {LONG} questions")
    return tuple(_question(f"quiz {section}, question {number}", row) for number, row in enumerate(rows, 1))


def _question(where: str, row: Any) -> Question:
    _check(where, row, QUESTION, set())
    choices = _choices(where, row["choices"])
    right = row["right"]
    if isinstance(right, bool) or not isinstance(right, int) or not 1 <= right <= len(choices):
        raise ValueError(f"{where}: 'right' must be the place of a choice, 1 to {len(choices)}, not {right!r}")
    return Question(row["ask"].strip(), choices, right - 1, row["because"].strip(), _rule(where, row["rule"]))


def _prediction(name: Any, row: Any) -> Prediction:
    where = f"prediction {name}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f"the name of a prediction must consist of lowercase letters, digits and hyphens, not {name!r}"
        )
    _check(where, row, PREDICTION, {"rule"})
    if not isinstance(row["key"], str) or not KEY.fullmatch(row["key"]):
        raise ValueError(f"{where}: its key must have the form chapter.subject.metric, not {row['key']!r}")
    given = row["choices"]
    if not isinstance(given, list) or not all(isinstance(one, dict) and "says" in one for one in given):
        raise ValueError(f"{where}: its choices must be a list of {{says, below}}, not {given!r}")
    bounds = [one.get("below", math.inf) for one in given]
    if any(set(one) - {"says", "below"} for one in given) or not all(
        isinstance(bound, int | float) and not isinstance(bound, bool) for bound in bounds
    ):
        raise ValueError(f"{where}: a choice must have 'says' and may have 'below', a number, not {given!r}")
    if bounds[-1:] != [math.inf] or bounds != sorted(set(bounds)):
        raise ValueError(f"{where}: the bounds must rise, and the last choice must have none, not {bounds}")
    choices = _choices(where, [one["says"] for one in given])
    rule = _rule(where, row["rule"]) if "rule" in row else None
    return Prediction(name, row["ask"].strip(), choices, tuple(bounds), row["key"], row["because"].strip(), rule)


def _check(where: str, row: Any, needed: set[str], more: set[str]) -> None:
    if not isinstance(row, dict) or not needed <= set(row) <= needed | more:
        raise ValueError(f"{where}: it must have {', '.join(sorted(needed))}, not {row!r}")
    for name in ("ask", "because"):
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"{where}: its {name!r} must be a sentence, not {row[name]!r}")
    if not row["ask"].rstrip().endswith("?"):
        raise ValueError(f"{where}: what it asks must end with a question mark: {row['ask']!r}")


def _choices(where: str, choices: Any) -> tuple[str, ...]:
    fits = isinstance(choices, list) and len(choices) in (3, 4) and len(set(map(str, choices))) == len(choices)
    if not fits or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise ValueError(f"{where}: it must have three or four different choices, each a text, not {choices!r}")
    return tuple(choice.strip() for choice in choices)


def _rule(where: str, rule: Any) -> str:
    if not isinstance(rule, str) or not rule.strip(" ;"):
        raise ValueError(f"{where}: its rule must say when the answer is right, not {rule!r}")
    return rule


def _verdict_fault(
    id: str, verdict: str, claims: Mapping[str, Claim], results: Mapping[str, tuple[str, Records]]
) -> str | None:
    claim = claims.get(id)
    if claim is None:
        return f"its rule names the claim {id}, which is not in survey/claims"
    if claim.elsewhere:
        return f"its rule names {id}, whose verdict depends on the processor: choose another claim"
    if claim.verdict != verdict:
        return f"its answer needs {id} {verdict}, but the ledger holds it {claim.verdict}"
    if verdict == NOT_TESTABLE:
        return None
    judged = 0
    for name, (profile, records) in results.items():
        if not (claim.keys(profile) and claim.keys(profile) <= records.keys()):
            continue
        judged += 1
        now = judging.judge(claim, profile, records).verdict
        if now != verdict and not (now == UNDECIDED and profile != PUBLISHED):
            return f"its answer needs {id} {verdict}, and the {name} give {now}"
    return None if judged else f"no profile has records of the claim {id}"


def _finding_fault(rule: str, results: Mapping[str, tuple[str, Records]]) -> str | None:
    keys = findings.keys(rule)
    known = {name: records for name, (_, records) in results.items() if keys and keys <= records.keys()}
    if not known:
        return f"no profile has records of {rule!r}"
    for name, records in known.items():
        try:
            if not findings.holds(rule, records):
                return f"its answer does not hold in the {name}: {rule}"
        except ValueError as error:
            return str(error)
    return None
