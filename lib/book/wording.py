"""Judgments in words, for the terminal: what a rule is about, what was measured, and what contradicts the ledger."""

from lib.book.claims import Claim, Rule
from lib.book.judging import Finding, Judgment
from lib.evidence import bounds, formatted


def quantity(rule: Rule, quote: str = "") -> str:
    """Return what a rule is about: ``key`` or ``key minus other``.

    rule: any rule.
    quote: what to put before and after each key.
    """
    if rule.other is None:
        return f"{quote}{rule.key}{quote}"
    other = f"{quote}{rule.other}{quote}" if isinstance(rule.other, str) else f"{rule.other:g}"
    return f"{quote}{rule.key}{quote} minus {other}"


def measured(finding: Finding) -> str:
    """Return the measured value of a rule's quantity, as a page prints it."""
    one = finding.rule.key if finding.rule.other is None else ""  # a difference of two shares has no bounds
    within = bounds(one, finding.unit)
    return formatted(list(finding.values), unit=unit(finding), digits=finding.digits, bounds=within)


def unit(finding: Finding) -> str:
    """Return the unit of a rule's quantity: a difference of percentages is in points."""
    return "points" if finding.unit == "%" and finding.rule.other is not None else finding.unit


def reasons(judgment: Judgment) -> str:
    """Return what each rule measured and what came of it, in one line."""
    return "; ".join(f"{quantity(f.rule)} is {measured(f)}, {f.outcome}" for f in judgment.findings)


def contradiction(claim: Claim, judgment: Judgment) -> str:
    """Return the sentence for a measurement that gives another verdict than the one we hold."""
    return (
        f"claim {claim.id} is held {claim.verdict!r}, but the {judgment.profile} profile gives"
        f" {judgment.verdict!r}: {reasons(judgment)}"
    )
