"""How measurements decide a claim: a rule holds, fails or straddles, and the rules together give a verdict.

Differences are taken seed by seed where both keys have as many values; a single value is subtracted as a constant.
With several values the whole 95 % t-interval of the mean must lie on one side of the bounds, else the rule straddles;
a single value decides as it is. A bound that is touched exactly holds.
All rules hold: supported. All fail: contradicted. Some hold and some fail: supported in part. Otherwise: undecided.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from lib.book.claims import (
    CONTRADICTED,
    IN_PART,
    NOT_TESTABLE,
    PUBLISHED,
    SUPPORTED,
    UNDECIDED,
    VERDICTS,
    Claim,
    Rule,
)
from lib.book.ledger import Records
from lib.evidence import interval

HOLDS, FAILS, STRADDLES = "holds", "fails", "straddles"
NOT_MEASURED = "not measured in this profile"


@dataclass(frozen=True)
class Finding:
    """One rule and the measurements: the values of its quantity, and whether it holds, fails or straddles."""

    rule: Rule
    values: tuple[float, ...]
    unit: str
    digits: int
    outcome: str


@dataclass(frozen=True)
class Judgment:
    """The verdict that a profile's measurements give a claim, and the findings that make it."""

    profile: str
    verdict: str
    findings: tuple[Finding, ...]


def judge(claim: Claim, profile: str, records: Records) -> Judgment:
    """Return what a profile's measurements say of a claim.

    claim: one that has rules for the profile.
    profile: quick, standard or full.
    records: the profile's measurements, by key.
    Raises ValueError for a claim without rules for the profile, for a rule about a key that was not recorded, and for
        seeds that cannot be paired.
    """
    if profile not in claim.rules:
        accepted = ", ".join(claim.rules) or "none"
        raise ValueError(f"the profile of a rule of claim {claim.id} must be one of {accepted}, not {profile!r}")
    findings = tuple(_finding(claim.id, rule, profile, records) for rule in claim.rules[profile])
    return Judgment(profile, combined(finding.outcome for finding in findings), findings)


def combined(outcomes: Iterable[str]) -> str:
    """Return the verdict that is certain whichever way the straddling rules would fall.

    outcomes: of all rules, each HOLDS, FAILS or STRADDLES.
    """
    kinds = frozenset(outcomes)
    if {HOLDS, FAILS} <= kinds:
        return IN_PART
    return {frozenset({HOLDS}): SUPPORTED, frozenset({FAILS}): CONTRADICTED}.get(kinds, UNDECIDED)


def outcome(values: Iterable[float], low: float, high: float) -> str:
    """Return whether the 95 % interval of the mean lies in [low, high] (HOLDS), outside (FAILS) or across a bound.

    values: one for each seed.
    low: the lower bound, or -inf.
    high: the upper bound, or inf.
    """
    mean, half = interval(list(values))
    least, most = mean - half, mean + half
    if _at_least(least, low) and _at_least(high, most):
        return HOLDS
    return STRADDLES if _at_least(most, low) and _at_least(high, least) else FAILS


def contradicts(judgment: Judgment, claim: Claim) -> bool:
    """Return whether a measurement gives another verdict than those that we hold; an undecided one gives none."""
    return claim.verdict != UNDECIDED and judgment.verdict not in (claim.verdict, UNDECIDED, *claim.elsewhere)


def judgments(claim: Claim, profile: str, results: dict[str, Records]) -> list[Judgment]:
    """Return a claim's judgments in a profile and in the published one, where it has rules and there are results.

    claim: any claim.
    profile: the profile of the build.
    results: {profile: measurements}.
    """
    profiles = [name for name in dict.fromkeys((profile, PUBLISHED)) if results.get(name) and name in claim.rules]
    return [judge(claim, name, results[name]) for name in profiles]


def shown(claim: Claim, judged: list[Judgment], profile: str) -> str:
    """Return the verdict to show: the measured one of a profile, or that it cannot be tested or was not measured.

    claim: any claim.
    judged: its judgments.
    profile: the profile of the build.
    """
    if claim.verdict == NOT_TESTABLE:
        return NOT_TESTABLE
    return next((judgment.verdict for judgment in judged if judgment.profile == profile), NOT_MEASURED)


def tally(ledger: list[Claim], profile: str, results: dict[str, Records]) -> dict[str, int]:
    """Return how many claims have which verdict in a profile, in the order of the verdicts, without the empty ones.

    ledger: the claims to count.
    profile: the profile of the build.
    results: {profile: measurements}.
    """
    counts = Counter(shown(claim, judgments(claim, profile, results), profile) for claim in ledger)
    return {verdict: counts[verdict] for verdict in (*VERDICTS, NOT_MEASURED) if counts[verdict]}


def _finding(id: str, rule: Rule, profile: str, records: Records) -> Finding:
    for key in rule.keys:
        if key not in records:
            raise ValueError(
                f"claim {id}: its rule for the {profile} profile names {key!r}, which no chapter records there"
            )
    record = records[rule.key]
    values = list(record["values"])
    if rule.other is not None:
        others = list(records[rule.other]["values"]) if isinstance(rule.other, str) else [rule.other]
        if len(values) != len(others) and 1 not in (len(values), len(others)):
            raise ValueError(
                f"claim {id}: {rule.key} has {len(values)} values and {rule.other} has {len(others)}:"
                " a difference needs as many of both, or one of either"
            )
        n = max(len(values), len(others))
        values = [a - b for a, b in zip(_spread(values, n), _spread(others, n), strict=True)]
    return Finding(rule, tuple(values), record["unit"], record["digits"], outcome(values, rule.low, rule.high))


def _spread(values: list[float], n: int) -> list[float]:
    return values if len(values) == n else values * n


def _at_least(value: float, bound: float) -> bool:
    return value >= bound or math.isclose(value, bound, rel_tol=1e-9, abs_tol=1e-12)  # 1.7 - 1.6 is "0.1"
