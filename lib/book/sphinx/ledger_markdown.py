"""The ledger and the catalogue as Markdown: cards of claims, rows of techniques. ``survey.py`` puts them on pages."""

import math
import re
from typing import Any

from lib.book.claims import (
    BY_DEFINITION,
    CONTRADICTED,
    IN_PART,
    NOT_TESTABLE,
    SECOND,
    SUPPORTED,
    UNDECIDED,
    VERDICTS,
    Claim,
    Rule,
)
from lib.book.judging import FAILS, HOLDS, NOT_MEASURED, STRADDLES, TOO_FEW, Finding, Judgment, again, judgments, shown
from lib.book.ledger import Records
from lib.book.wording import measured, quantity, unit
from lib.evidence import bounds, formatted

SIGNS = dict(zip((*VERDICTS, NOT_MEASURED, BY_DEFINITION), "✓◐✗?–·≡", strict=True))
OUTCOMES = {
    HOLDS: "✓ holds",
    FAILS: "✗ fails",
    STRADDLES: "? the interval crosses the bound",
    TOO_FEW: "? too few seeds to decide",
}
OTHER_DATA = "Fashion-MNIST"  # what the second profile has in place of MNIST
FRAGILE = 1  # halves of the width of an interval: a verdict whose interval is nearer to its bound is fragile

SAYS = {  # what a run does, by the verdict that it gives
    SUPPORTED: "supports the claim",
    IN_PART: "supports the claim in part",
    CONTRADICTED: "contradicts the claim",
    UNDECIDED: "is inconclusive",
}
SUBJECTS = {"lenet300": "LeNet-300-100", "lenet5": "LeNet-5", "resnet8": "ResNet-8", "vgg": "VGG", "alexnet": "AlexNet"}


def badge(claim: Claim, profile: str, results: dict[str, Records]) -> tuple[str, str]:
    """Return the verdict to show and its text, a sign and words, so that it does not rest on color alone.

    claim: any claim.
    profile: the profile of the build.
    results: {profile: measurements}.
    """
    judged = judgments(claim, profile, results)
    verdict = shown(claim, judged, profile)
    if verdict == NOT_MEASURED and judged:
        return judged[0].verdict, f"{SIGNS[judged[0].verdict]} {judged[0].verdict} ({judged[0].profile} profile)"
    if claim.kind == BY_DEFINITION and verdict != NOT_MEASURED:
        return verdict, f"{SIGNS[BY_DEFINITION]} {verdict} by definition"
    return verdict, f"{SIGNS[verdict]} {verdict}"


def chance(decided: list[tuple[Claim, Finding]]) -> str:
    """Return how many rules seeds decide, and how many of them chance could have turned.

    decided: as :func:`lib.book.judging.sampled` returns them.
    """
    n = len(decided)
    return (
        f"Seeds decide {counted(n, 'rule')} of this profile, each by an interval of 95 % and without a correction for"
        f" their number. If every true mean lay exactly on its bound, about {counted(round(0.05 * n), 'rule')} would"
        " be decided by chance, half of them each way."
    )


def fragile(decided: list[tuple[Claim, Finding]]) -> list[str]:
    """Return one line for each rule whose interval ends near its bound, the nearest first.

    decided: as :func:`lib.book.judging.sampled` returns them.
    """
    return [
        f"{{verdict}}`{claim.id}`: {subject(found.rule)} is {_together(measured(found))}, the rule asks for"
        f" {_bounds(found)}; between the interval and the bound lie {found.margin:.2f} halves of its width."
        for claim, found in decided
        if found.margin < FRAGILE
    ]


def card(claim: Claim, profile: str, results: dict[str, Records]) -> str:
    """Return what the survey says and reports, what was measured here, and why the verdict is what it is.

    claim: any claim.
    profile: the profile of the build.
    results: {profile: measurements}.
    """
    judged = judgments(claim, profile, results)
    here = [judgment for judgment in judged if judgment.profile == profile]
    facts = [("Reported", [_reported(claim.reported)])] if claim.reported else []
    for judgment in judged:
        lines = [_finding(finding, results[judgment.profile]) for finding in judgment.findings]
        facts.append((_heading(judgment, profile), lines))
    if claim.verdict != NOT_TESTABLE and not here:
        known = f" The verdict above is that of the {judged[0].profile} profile." if judged else ""
        facts.append(("Here", [f"The {profile} profile does not measure it.{known}"]))
    elif here and here[0].verdict != claim.verdict:
        facts.append(("Verdict", [_beside_what_is_held(claim, here[0], judged)]))
    if claim.elsewhere:
        verdicts = " or ".join(f"*{verdict}*" for verdict in claim.elsewhere)
        facts.append(("Processor", [f"The verdict depends on it: other processors give {verdicts}."]))
    if claim.otherwise:
        facts.append(
            ("Profiles", [f"The {name} profile gives *{verdict}*." for name, verdict in claim.otherwise.items()])
        )
    if second := again(claim, results.get(SECOND, {})):
        facts.append((OTHER_DATA, [_on_other_data(second, results[SECOND])]))
    facts += [("Erratum", [claim.erratum])] if claim.erratum else []
    facts += [("Changed", [claim.changed])] if claim.changed else []
    facts += [("Because", [claim.because])] if claim.because else []
    return "\n\n".join([_one_line(claim.says), *(fact(term, lines) for term, lines in facts)]) + "\n"


def _on_other_data(second: Judgment, records: Records) -> str:
    """The verdict of the same rules on data that tuned nothing, and what was measured there."""
    found = "; ".join(f"{subject(one.rule)}: {_together(measured(one))}" for one in second.findings)
    return f"*{second.verdict}* by the same rules ({found})."


def second_opinion(claims: list[Claim], results: dict[str, Records]) -> tuple[str, list[str]] | None:
    """Return how many verdicts stay on other data, and a line for each that does not; None without such results.

    claims: all claims.
    results: {profile: measurements}.
    """
    pairs = [(claim, second) for claim in claims if (second := again(claim, results.get(SECOND, {})))]
    if not pairs:
        return None
    lines = [
        f"{{verdict}}`{claim.id}`: *{second.verdict}* there."
        for claim, second in pairs
        if second.verdict != claim.verdict
    ]
    said = (
        f"On {OTHER_DATA}, on which nothing was tuned, the rules of {counted(len(pairs), 'claim')} were judged again:"
        f" {counted(len(pairs) - len(lines), 'verdict')} are the same."
    )
    return said, lines


def records(claim: Claim, profile: str, results: dict[str, Records]) -> str:
    """Return the keys of the records that decide a claim and what its rules ask of them; "" where nothing decides it.

    claim: any claim.
    profile: the profile of the build.
    results: {profile: measurements}.
    """
    profiles: dict[tuple[str, ...], list[str]] = {}  # of the same rules, which are shown once
    for judgment in judgments(claim, profile, results):
        lines = tuple(f"{quantity(found.rule, '`')}: {_bounds(found)}" for found in judgment.findings)
        profiles.setdefault(lines, []).append(judgment.profile)
    return "\n\n".join(fact(_profiles(names), list(lines)) for lines, names in profiles.items())


def _profiles(names: list[str]) -> str:
    return f"{' and '.join(names).capitalize()} profile{'s' if names[1:] else ''}"  # this build's, the published one


def technique(row: dict[str, Any], source_link: str) -> str:
    """Return one technique of the catalogue.

    row: of survey/techniques.yml.
    source_link: Markdown that leads to its file.
    """
    facts = [
        ("Chapter", [f"{{ref}}`{row['name']} <{row['anchor']}>`"]),
        ("Source", [f"{{cite:t}}`{','.join(row['source'])}`"]),
        ("Code", [source_link]),
        ("Test", [f"`{row['test']}`"]),
        ("Claims", [f"{{verdict}}`{id}`" for id in row["claims"]] or ["none yet"]),
    ]
    return "\n\n".join([_one_line(row["idea"]), *(fact(term, lines) for term, lines in facts)]) + "\n"


def text_of(key: str, record: dict[str, Any]) -> str:
    """Return a record as its page prints it, on one line; ``key`` is the measurement's."""
    form = {"unit": record["unit"], "digits": record["digits"], "bounds": bounds(key, record["unit"])}
    return _together(formatted(record["values"], **form))


def fact(term: str, lines: list[str]) -> str:
    """Return a term and its details, a definition for each of the lines."""
    return "\n".join([term, *(f": {_one_line(line)}" for line in lines)])


def counted(n: int, noun: str) -> str:
    """Return a number with a noun that takes an s where there are several."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _heading(judgment: Judgment, profile: str) -> str:
    return "Measured" if judgment.profile == profile else _profiles([judgment.profile])


def _reported(reported: dict[str, Any]) -> str:
    parts = [f"{reported['value']}{_suffix(reported.get('unit', ''))}"]
    parts += [str(reported["where"])] if "where" in reported else []
    parts += [f"{{cite:t}}`{reported['source']}`"] if "source" in reported else []
    return ", ".join(parts)


def _finding(finding: Finding, records: Records) -> str:
    text = f"{subject(finding.rule)}: {_together(measured(finding))}"
    if isinstance(finding.rule.other, str):
        text += f" ({' against '.join(text_of(key, records[key]) for key in finding.rule.keys)})"
    return f"{text}; the rule asks for {_bounds(finding)}: {OUTCOMES[finding.outcome]}."


def subject(rule: Rule) -> str:
    """Return what a rule is about in words: the key without its chapter and its unit, a known network by its name."""
    first, *others = (_words(key) for key in rule.keys)
    if not others:
        return ", ".join(first) + ("" if rule.other is None else f" minus {rule.other:g}")
    return f"{', '.join(first)} minus {others[0][1] if others[0][0] == first[0] else ', '.join(others[0])}"


def _words(key: str) -> tuple[str, str]:
    subject, metric = key.split(".")[1:]
    return SUBJECTS.get(subject, subject.replace("_", " ")), metric.removesuffix("_pct").replace("_", " ")


def _beside_what_is_held(claim: Claim, here: Judgment, judged: list[Judgment]) -> str:
    published = next((judgment for judgment in judged if judgment is not here), None)
    if published and published.verdict == here.verdict == UNDECIDED:
        return f"This run and the {published.profile} run are inconclusive; the ledger holds it *{claim.verdict}*."
    if published:
        return f"This run {SAYS[here.verdict]}; the {published.profile} run {SAYS[published.verdict]}."
    return f"This run {SAYS[here.verdict]}; the ledger holds it *{claim.verdict}*."


def _bounds(finding: Finding) -> str:
    rule, suffix = finding.rule, _suffix(unit(finding))
    if rule.word == "within":
        return f"at most {_plain(rule.high, suffix)} either way"
    if rule.word == "between":
        return f"{_plain(rule.low)} to {_plain(rule.high, suffix)}"
    return f"at most {_plain(rule.high, suffix)}" if rule.low == -math.inf else f"at least {_plain(rule.low, suffix)}"


def _suffix(name: str) -> str:
    return {"x": "×", "×": "×", "": ""}.get(name, f" {name}")


def _plain(value: float, suffix: str = "") -> str:
    text = f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"
    return text.replace("-", "−") + (" point" if (value, suffix) == (1, " points") else suffix)


def _together(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _one_line(text: str) -> str:
    return re.sub(r"[ \t\r\n]+", " ", text).strip()  # spaces that hold a number together stay
