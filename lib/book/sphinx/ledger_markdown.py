"""The ledger and the catalogue as Markdown: cards of claims, rows of techniques. ``survey.py`` puts them on pages."""

import math
import re
from collections.abc import Iterable
from typing import Any

from lib.book.claims import (
    BY_DEFINITION,
    CONTRADICTED,
    IN_PART,
    SECOND,
    SUPPORTED,
    UNDECIDED,
    VERDICTS,
    Claim,
    Rule,
)
from lib.book.judging import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    SAMPLED,
    STRADDLES,
    TOO_FEW,
    Finding,
    Judgment,
    again,
    judgments,
    shown,
)
from lib.book.ledger import Records
from lib.book.sphinx.parts import anchor
from lib.book.telling import limit, name, plain
from lib.book.wording import measured, quantity
from lib.evidence import bounds, formatted

SIGNS = dict(zip((*VERDICTS, NOT_MEASURED, BY_DEFINITION), "✓◐✗?–·≡", strict=True))
OUTCOMES = {
    HOLDS: "✓ holds",
    FAILS: "✗ fails",
    STRADDLES: "? the interval crosses the bound",
    TOO_FEW: "? too few seeds to decide",
}
OTHER_DATA = "Fashion-MNIST"  # what the second profile has in place of MNIST
FRAGILITY, ERRATUM, CHANGED = "Fragile", "Erratum", "Changed"  # terms of a card's details
FRAGILE = 1  # half-widths of an interval: a verdict whose interval ends nearer to its bound is fragile

SAYS = {  # what a run does, by the verdict that it gives
    SUPPORTED: "supports the claim",
    IN_PART: "supports the claim in part",
    CONTRADICTED: "contradicts the claim",
    UNDECIDED: "is inconclusive",
}


def badge(claim: Claim, profile: str, results: dict[str, Records]) -> tuple[str, str]:
    """Return the verdict to show and its text, a sign and words, so that it does not depend on color alone.

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
    """Return how many rules seeds decide, and how many of them chance alone may decide, as a paragraph.

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
    """Return what the survey reports, and whether this run disagrees with the verdict that the ledger holds.

    On the page these lines follow the claim and what was measured for it, :func:`lib.book.telling.told`.

    claim: any claim.
    profile: the profile of the build.
    results: {profile: measurements}.
    """
    judged = judgments(claim, profile, results)
    here = [judgment for judgment in judged if judgment.profile == profile]
    facts = [("Reported", [_reported(claim.reported)])] if claim.reported else []
    if here and here[0].verdict != claim.verdict:
        facts.append(("Verdict", [_beside_what_is_held(claim, here[0], judged)]))
    return "\n\n".join(fact(term, lines) for term, lines in facts)


def details(claim: Claim, profile: str, results: dict[str, Records]) -> dict[str, list[str]]:
    """Return the details behind a verdict: {term: what there is to say about it}, in the order of the page.

    claim: any claim.
    profile: the profile of the build.
    results: {profile: measurements}.
    """
    judged = judgments(claim, profile, results)
    found = rules(judged, results)
    if near := [_near(finding) for finding in _near_bounds(judged, profile)]:
        found[FRAGILITY] = near
    if claim.elsewhere:
        verdicts = " or ".join(f"*{verdict}*" for verdict in claim.elsewhere)
        found["Processor"] = [f"The verdict depends on it: other processors give {verdicts}."]
    if claim.otherwise:
        found["Profiles"] = [
            f"The {profile} profile gives *{verdict}*." for profile, verdict in claim.otherwise.items()
        ]
    if second := again(claim, results.get(SECOND, {})):
        found[OTHER_DATA] = [_on_other_data(claim, second, results[SECOND])]
    texts = {ERRATUM: claim.erratum, CHANGED: claim.changed}
    return found | {term: [text] for term, text in texts.items() if text}


def hidden(terms: Iterable[str], rules: int) -> str:
    """Return the summary line for the folded details of a card: how many rules there are, and what else.

    terms: those of the details.
    rules: how many rules decide the claim.
    """
    named = {FRAGILITY: "near a bound", OTHER_DATA: "other data", ERRATUM: "erratum", CHANGED: "rule changed"}
    parts = [counted(rules, "rule")] if rules else []
    return ", ".join(parts + [named[term] for term in terms if term in named])


def _near_bounds(judged: list[Judgment], profile: str) -> list[Finding]:
    return [
        finding
        for judgment in judged
        if judgment.profile == profile
        for finding in judgment.findings
        if finding.kind == SAMPLED and finding.outcome in (HOLDS, FAILS) and finding.margin < FRAGILE
    ]


def _near(finding: Finding) -> str:
    """How near the interval of a quantity ends to its bound, as a sentence."""
    return f"{subject(finding.rule)}: the interval ends {finding.margin:.2f} of its half-width from the bound."


def _on_other_data(claim: Claim, second: Judgment, records: Records) -> str:
    """The verdict of the same rules on data on which nothing was tuned, with the measurements if it differs."""
    if second.verdict == claim.verdict:
        return f"*{second.verdict}* by the same rules."
    found = "; ".join(f"{subject(one.rule)}: {_together(measured(one))}" for one in second.findings)
    return f"*{second.verdict}* by the same rules ({found})."


def second_opinion(claims: list[Claim], results: dict[str, Records]) -> tuple[str, int, list[str]] | None:
    """Return a summary of the verdicts on other data, how many change, and a line for each kind of change.

    None if there are no results on other data.

    claims: all claims.
    results: {profile: measurements}.
    """
    pairs = [(claim, second) for claim in claims if (second := again(claim, results.get(SECOND, {})))]
    if not pairs:
        return None
    changed: dict[tuple[str, str], list[str]] = {}
    for claim, second in pairs:
        if second.verdict != claim.verdict:
            changed.setdefault((claim.verdict, second.verdict), []).append(claim.id)
    # first the changes that more seeds would not undo
    order = sorted(changed, key=lambda way: (UNDECIDED in way, -len(changed[way]), way))
    links = {way: ", ".join(f"{{ref}}`{id} <{anchor(id).lower()}>`" for id in ids) for way, ids in changed.items()}
    lines = [f"*{here}*, and *{there}* there: {links[here, there]}" for here, there in order]
    others = sum(map(len, changed.values()))
    same = len(pairs) - others
    turned = sum(len(ids) for way, ids in changed.items() if {*way} == {SUPPORTED, CONTRADICTED})
    said = (
        f"On {OTHER_DATA}, on which nothing was tuned, the rules of {counted(len(pairs), 'claim')} were judged again:"
        f" {same} {'keeps its' if same == 1 else 'keep their'} verdict,"
        f" and {turned or 'none'} {'turns' if turned < 2 else 'turn'} into the opposite."
    )
    return said, others, lines


def rules(judged: list[Judgment], results: dict[str, Records]) -> dict[str, list[str]]:
    """Return the rules of a claim by the profiles that share them: the keys of the records, the bound, what came out.

    judged: a claim's judgments, of one profile or two.
    results: {profile: measurements}.
    """
    asked: dict[tuple[Rule, ...], list[Judgment]] = {}
    for judgment in judged:
        asked.setdefault(tuple(finding.rule for finding in judgment.findings), []).append(judgment)
    return {
        _profiles([judgment.profile for judgment in sharing]): [
            f"{keys(rule)}, {_bounds(sharing[0].findings[position])}: {_outcomes(position, sharing, results)}."
            for position, rule in enumerate(same)
        ]
        for same, sharing in asked.items()
    }


def keys(rule: Rule) -> str:
    """Return the keys that a rule is about, as short HTML: the ledger has a thousand of them."""
    first, *others = re.split(r" (?=minus )", quantity(rule))
    minus = [f" minus <code>{other.removeprefix('minus ')}</code>" for other in others]
    return f"<code>{first}</code>{''.join(minus)}"


def _outcomes(position: int, sharing: list[Judgment], results: dict[str, Records]) -> str:
    """What each of the profiles that share a rule measured, and what came of it."""
    several = len(sharing) > 1
    return "; ".join(
        (f"{judgment.profile} " if several else "") + _finding(judgment.findings[position], results[judgment.profile])
        for judgment in sharing
    )


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


def _reported(reported: dict[str, Any]) -> str:
    parts = [f"{reported['value']}{_suffix(reported.get('unit', ''))}"]
    parts += [str(reported["where"])] if "where" in reported else []
    parts += [f"{{cite:t}}`{reported['source']}`"] if "source" in reported else []
    return ", ".join(parts)


def _finding(finding: Finding, records: Records) -> str:
    text = _together(measured(finding))
    if isinstance(finding.rule.other, str):
        text += f" ({' against '.join(text_of(key, records[key]) for key in finding.rule.keys)})"
    return f"{text}, {OUTCOMES[finding.outcome]}"


def subject(rule: Rule) -> str:
    """Return what a rule is about in words, as :func:`lib.book.telling.name` has them."""
    first, *others = (name(key) for key in rule.keys)
    if not others:
        return ", ".join(first) + ("" if rule.other is None else f" minus {rule.other:g}")
    return f"{', '.join(first)} minus {others[0][1] if others[0][0] == first[0] else ', '.join(others[0])}"


def _beside_what_is_held(claim: Claim, here: Judgment, judged: list[Judgment]) -> str:
    published = next((judgment for judgment in judged if judgment is not here), None)
    if published and published.verdict == here.verdict == UNDECIDED:
        return f"This run and the {published.profile} run are inconclusive; the ledger holds it *{claim.verdict}*."
    if published:
        return f"This run {SAYS[here.verdict]}; the {published.profile} run {SAYS[published.verdict]}."
    return f"This run {SAYS[here.verdict]}; the ledger holds it *{claim.verdict}*."


def _bounds(finding: Finding) -> str:
    rule = finding.rule
    if rule.word == "within":
        return f"at most {limit(finding, rule.high)} either way"
    if rule.word == "between":
        return f"{plain(rule.low)} to {limit(finding, rule.high)}"
    return f"at most {limit(finding, rule.high)}" if rule.low == -math.inf else f"at least {limit(finding, rule.low)}"


def _suffix(unit: str) -> str:
    return {"x": "×", "×": "×", "": ""}.get(unit, f" {unit}")


def _together(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _one_line(text: str) -> str:
    return re.sub(r"[ \t\r\n]+", " ", text).strip()  # spaces that hold a number together stay
