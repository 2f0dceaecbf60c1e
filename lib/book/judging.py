"""How measurements decide a claim: a rule holds, fails or straddles, and the rules together give a verdict.

Differences are taken seed by seed if both keys have as many values; a single value is subtracted as a constant. The
whole 95 % t-interval of the mean must lie on one side of the bounds, otherwise the rule straddles. A bound that is just
reached holds. A quantity that depends on the seed needs three values or more to decide. A single value decides if it
is exact, or if it is a time, which is already a median.
All rules hold: supported. All fail: contradicted. Some hold and some fail: supported in part. Otherwise: undecided.
A claim about every case is contradicted by one rule that fails.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from lib.book.claims import (
    BY_DEFINITION,
    CONTRADICTED,
    IN_PART,
    NOT_TESTABLE,
    PUBLISHED,
    SECOND,
    SUPPORTED,
    TIME,
    UNDECIDED,
    VERDICTS,
    Claim,
    Rule,
)
from lib.book.ledger import Records
from lib.evidence import FEW, interval

HOLDS, FAILS, STRADDLES, TOO_FEW = "holds", "fails", "straddles", "too few seeds"
EXACT, TIMED, SAMPLED = "exact", "timed", "sampled"  # what could change a quantity: nothing, the processor, a seed
NOT_MEASURED = "not measured in this profile"


@dataclass(frozen=True)
class Finding:
    """One rule and its measurements: the values of its quantity, and whether it holds, fails or straddles.

    ``kind`` is EXACT, TIMED or SAMPLED.
    """

    rule: Rule
    values: tuple[float, ...]
    unit: str
    digits: int
    kind: str
    outcome: str

    @property
    def margin(self) -> float:
        """The distance of the interval from the nearest bound, in half-widths; negative if it crosses one."""
        mean, half = interval(list(self.values))
        inside = min(mean - half - self.rule.low, self.rule.high - mean - half)
        outside = max(self.rule.low - mean - half, mean - half - self.rule.high)
        distance = max(inside, outside)
        return distance / half if half else math.copysign(math.inf, distance)


@dataclass(frozen=True)
class Judgment:
    """The verdict that a profile's measurements give a claim, and the findings behind it."""

    profile: str
    verdict: str
    findings: tuple[Finding, ...]


def judge(claim: Claim, profile: str, records: Records) -> Judgment:
    """Return what a profile's measurements say about a claim.

    claim: one that has rules for the profile.
    profile: a profile's name.
    records: the profile's measurements, by key.
    Raises ValueError for a claim without rules for the profile, for a rule about a key that was not recorded, and for
        seeds that cannot be paired.
    """
    if profile not in claim.rules:
        accepted = ", ".join(claim.rules) or "none"
        raise ValueError(f"the claim {claim.id} has rules for these profiles: {accepted}; not for {profile!r}")
    findings = tuple(_finding(claim.id, rule, profile, records) for rule in claim.rules[profile])
    return Judgment(profile, combined((finding.outcome for finding in findings), every=claim.every), findings)


def again(claim: Claim, records: Records) -> Judgment | None:
    """Return the judgment of a claim by the published rules on other data.

    None if the claim has a kind or no published rules, if no seed decides it, or if it was not measured there.

    claim: any claim.
    records: the measurements of the second profile.
    """
    rules = claim.rules.get(PUBLISHED, ())
    if not rules or claim.kind is not None or not claim.keys(PUBLISHED) <= records.keys():
        return None
    judged = judge(dataclasses.replace(claim, rules={SECOND: rules}), SECOND, records)
    return judged if any(finding.kind == SAMPLED for finding in judged.findings) else None


def combined(outcomes: Iterable[str], *, every: bool = False) -> str:
    """Return the verdict that is certain whichever way the undecided rules would fall.

    outcomes: one for each rule: HOLDS, FAILS, STRADDLES or TOO_FEW.
    every: whether one failing rule contradicts the claim. Default False.
    """
    kinds = frozenset(outcomes)
    if every and FAILS in kinds:
        return CONTRADICTED
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
    """Return whether a measurement gives another verdict than the ledger holds.

    In the published profile, and in those that ``otherwise`` names, an undecided verdict counts as another one; in the
    other profiles it says nothing. Committed records must give the held verdict; a run elsewhere must not flip it
    (:func:`flips`).
    """
    accepted = {claim.otherwise.get(judgment.profile, claim.verdict), *claim.elsewhere}
    if judgment.profile != PUBLISHED and judgment.profile not in claim.otherwise:
        accepted.add(UNDECIDED)
    return judgment.verdict not in accepted


def flips(now: Judgment, claim: Claim, then: Judgment | None) -> bool:
    """Return whether a new run contradicts the held verdict, and not only because one of the runs is uncertain.

    Rounding differs from processor to processor, and training amplifies it, so a run on another machine is another
    sample. An interval that ends near its bound may then cross it in one of two runs that agree. A verdict flips if it
    differs and both the held and the new one are decided. It also flips if a rule that holds in the committed records
    fails in the new run, or the other way around.

    now: what the new run says about the claim.
    claim: its rules and the held verdict.
    then: what the committed records say by the same rules; None if there are none, so that any other verdict flips.
    """
    if not contradicts(now, claim):
        return False
    decided = UNDECIDED not in (now.verdict, claim.otherwise.get(now.profile, claim.verdict))
    if decided or then is None or contradicts(then, claim) or len(now.findings) != len(then.findings):
        return True
    return any(
        {new.outcome, old.outcome} == {HOLDS, FAILS} for new, old in zip(now.findings, then.findings, strict=True)
    )


def mixed(claim: Claim, judgment: Judgment) -> str | None:
    """Return what is wrong with the kinds of measurements that decide a claim, as one sentence, or None.

    claim: any claim.
    judgment: what a profile's measurements say about it.
    """
    kinds = {finding.kind for finding in judgment.findings}
    where = f"claim {claim.id}: in the {judgment.profile} profile"
    if kinds == {EXACT} and claim.kind != BY_DEFINITION:
        return f"{where} only exact quantities decide it, which cannot come out otherwise: say kind: {BY_DEFINITION}"
    if kinds != {EXACT} and claim.kind == BY_DEFINITION:
        return f"{where} a measurement decides it, not a definition: leave its kind out"
    if kinds == {TIMED} and claim.kind != TIME:
        return f"{where} only times decide it: add a rule about something else, or say kind: {TIME}"
    if TIMED not in kinds and claim.kind == TIME:
        return f"{where} no time decides it: leave its kind out"
    if {TIMED, EXACT} <= kinds and not claim.every:
        return (
            f"{where} a constant and a time decide it together, which could soften the verdict: make two claims of it"
        )
    if TIMED not in kinds and claim.elsewhere and judgment.profile == PUBLISHED:
        return f"{where} no time decides it, so processors change its verdict only by chance: leave 'elsewhere' out"
    return None


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
    """Count claims by their verdict in a profile, in the order of the verdicts, without zeros.

    Claims that are true or false by definition are counted as such, at the end, whatever their verdict.

    ledger: the claims to count.
    profile: the profile of the build.
    results: {profile: measurements}.
    """
    counts = Counter(counted_as(claim, profile, results) for claim in ledger)
    return {verdict: counts[verdict] for verdict in (*VERDICTS, NOT_MEASURED, BY_DEFINITION) if counts[verdict]}


def sampled(ledger: list[Claim], profile: str, results: dict[str, Records]) -> list[tuple[Claim, Finding]]:
    """Return each rule that is decided by the values of several seeds, the most fragile first.

    ledger: the claims.
    profile: the profile of the build.
    results: {profile: measurements}.
    """
    found = [
        (claim, finding)
        for claim in ledger
        for judgment in judgments(claim, profile, results)
        if judgment.profile == profile
        for finding in judgment.findings
        if finding.kind == SAMPLED and finding.outcome in (HOLDS, FAILS)
    ]
    return sorted(found, key=lambda pair: pair[1].margin)


def counted_as(claim: Claim, profile: str, results: dict[str, Records]) -> str:
    """Return the verdict under which a claim is counted, or that a definition decides it.

    claim: any claim.
    profile: the profile of the build.
    results: {profile: measurements}.
    """
    verdict = shown(claim, judgments(claim, profile, results), profile)
    return BY_DEFINITION if claim.kind == BY_DEFINITION and verdict != NOT_MEASURED else verdict


def _finding(id: str, rule: Rule, profile: str, records: Records) -> Finding:
    for key in rule.keys:
        if key not in records:
            raise ValueError(
                f"claim {id}: its rule for the {profile} profile names {key!r}, which no chapter records there"
            )
    record, named = records[rule.key], [records[key] for key in rule.keys]
    kind = TIMED if any(one.get("timing") for one in named) else SAMPLED
    kind = EXACT if all(one.get("exact") for one in named) else kind
    few = kind == SAMPLED and min(len(one["values"]) for one in named if not one.get("exact")) < FEW
    values = list(record["values"])
    if rule.other is not None:
        others = list(records[rule.other]["values"]) if isinstance(rule.other, str) else [rule.other]
        if len(values) != len(others) and 1 not in (len(values), len(others)):
            raise ValueError(
                f"claim {id}: {rule.key} has {len(values)} values and {rule.other} has {len(others)}:"
                " a difference needs equally many, or a single one of either"
            )
        n = max(len(values), len(others))
        values = [a - b for a, b in zip(_spread(values, n), _spread(others, n), strict=True)]
    found = TOO_FEW if few else outcome(values, rule.low, rule.high)
    return Finding(rule, tuple(values), record["unit"], record["digits"], kind, found)


def _spread(values: list[float], n: int) -> list[float]:
    return values if len(values) == n else values * n


def _at_least(value: float, bound: float) -> bool:
    return value >= bound or math.isclose(value, bound, rel_tol=1e-9, abs_tol=1e-12)  # 1.7 - 1.6 is "0.1"
