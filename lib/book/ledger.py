"""The ledger: what the survey claims, the rules that decide, and the verdicts that the measurements give.

``survey/claims/<chapter>.yml`` is a list of claims::

    - id: C2.4-12                        # C<section>-NN, or T1-NN of Table 1 (section 4), once in the whole book
      section: "2.4"
      says: our paraphrase of the survey's sentence
      reported: {value: 40, unit: x, where: Table 1, source: han2016deep}       # optional; only `value` is needed
      erratum: what the source says, and where                                  # optional, stands beside the verdict
      kind: historical                                                          # optional: about names and dates
      decided_by:
        quick: [{key: quantization.lenet300.file_ratio, at_least: 15}]
        standard:
          - {key: quantization.lenet300.file_ratio, at_least: 40}
          - {key: quantization.lenet300.error_pct, at_most: 0.1, above: quantization.lenet300.baseline_error_pct}
      verdict: supported                 # what we hold today; the build fails if a measurement says otherwise
      elsewhere: [supported in part]     # optional: what other processors give, where a time decides

A claim that nothing here can decide has ``verdict: not testable here`` and ``because:`` instead of ``decided_by``.
Text fields are Markdown and may cite: ``{cite:t}`han2016deep` ``.

A rule holds a measured quantity against bounds::

    {key: k, at_least: x}      {key: k, at_most: x}      {key: k, between: [a, b]}
    {key: k, at_least: x, above: other}       the same about the difference k - other; also at_most, between
    {key: k, within: d, of: other}            the difference lies between -d and d
    {key: k, exceeds: other, by: d}           the difference is at least d

``other`` is a key or a number. Differences are taken seed by seed where both keys have as many values; a single value
is subtracted as a constant. With several values the whole 95 % t-interval must lie on one side of the bounds, else the
rule straddles; a single value decides as it is. A bound that is touched exactly holds.
All rules hold: supported. All fail: contradicted. Some hold and some fail: supported in part. Otherwise: undecided.
A claim decided by timing alone is refused: bytes and multiply-adds decide. Where a rule about time makes the verdict
depend on the processor, ``elsewhere`` names the other verdicts that were seen, and the page says that it depends on it.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lib.book import chapters
from lib.evidence import KEY, formatted, interval

PROFILES = ("quick", "standard", "full")
PUBLISHED = "standard"  # the profile whose verdicts are the book's
SUPPORTED, IN_PART, CONTRADICTED, UNDECIDED, NOT_TESTABLE = VERDICTS = (
    "supported",
    "supported in part",
    "contradicted",
    "undecided",
    "not testable here",
)
NOT_MEASURED = "not measured in this profile"
HOLDS, FAILS, STRADDLES = "holds", "fails", "straddles"
SECTIONS = {
    "1": "Introduction",
    "2.1": "Knowledge distillation",
    "2.2": "Hashing",
    "2.3": "Pruning",
    "2.4": "Quantization",
    "2.5": "Reducing numerical precision",
    "2.6": "Binarization",
    "3.1": "Architecture overview",
    "3.2.1": "Self-organization",
    "3.2.2": "Neuroevolution",
    "3.2.3": "Network morphism",
    "3.2.4": "Supergraphs",
    "4": "Discussion and conclusion",
}
FIELDS = {"id", "section", "says", "reported", "erratum", "kind", "decided_by", "verdict", "elsewhere", "because"}
WORDS = {"at_least", "at_most", "between", "within", "exceeds"}
PARTNERS = {"within": {"of"}, "exceeds": {"by"}}  # every other word may have `above`
TIMING = re.compile(r"latency|seconds|_m?s$|^kernel\.")  # in a key behind its chapter

Records = dict[str, dict[str, Any]]  # key -> {"values": [...], "unit": ..., "digits": ...}


@dataclass(frozen=True)
class Rule:
    """``key - other`` (or ``key`` alone) lies in [low, high]; ``words`` says so for the reader."""

    key: str
    other: str | float | None
    low: float
    high: float
    word: str

    @property
    def keys(self) -> list[str]:
        """The measurements that the rule needs."""
        return [self.key, *([self.other] if isinstance(self.other, str) else [])]

    @property
    def timing(self) -> bool:
        return bool(TIMING.search(self.key.split(".", 1)[-1]))


@dataclass(frozen=True)
class Claim:
    """One checkable sentence of the survey; ``rules`` by profile."""

    id: str
    section: str
    chapter: str
    says: str
    verdict: str
    rules: dict[str, tuple[Rule, ...]]
    reported: dict[str, Any] | None = None
    erratum: str | None = None
    because: str | None = None
    kind: str | None = None
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One rule held against the measurements: the quantity's values, and what came of it."""

    rule: Rule
    values: tuple[float, ...]
    unit: str
    digits: int
    outcome: str


@dataclass(frozen=True)
class Judgement:
    """The verdict that a profile's measurements give a claim, and the findings that make it."""

    profile: str
    verdict: str
    findings: tuple[Finding, ...]


# --- reading -----------------------------------------------------------------------------------------------------


def load_claims(root: Path) -> list[Claim]:
    """Every claim of ``survey/claims/*.yml`` under ``root``. Raises ValueError with one sentence for a wrong one."""
    known = bibliography_keys(root)
    claims: list[Claim] = []
    for path in sorted((root / "survey" / "claims").glob("*.yml")):
        raw = _yaml(path)
        if not isinstance(raw, list):
            raise ValueError(f"{path.name} holds {type(raw).__name__}: a list of claims is needed")
        claims += [_claim(one, path.stem, known) for one in raw]
    if not claims:
        raise ValueError(f"there is no claim in {root.name}/survey/claims: at least one file with one claim is needed")
    twice = [id for id, n in Counter(claim.id for claim in claims).items() if n > 1]
    if twice:
        raise ValueError(f"the claim id {twice[0]} stands in the ledger twice: each id belongs to one claim")
    return claims


def load_results(profile: str, root: Path, *, built: bool = False) -> Records:
    """Every record of a profile under ``root``, by key: the committed ones, or those of the last build.

    Empty where that profile was never run.
    """
    if profile not in PROFILES:
        raise ValueError(f"the profile {profile!r} is unknown: accepted are {', '.join(PROFILES)}")
    records: Records = {}
    for path in result_files(profile, root, built=built):
        for key, record in load_result(path)["records"].items():
            if key in records:
                raise ValueError(f"the key {key!r} is recorded twice in the {profile} profile: each has one chapter")
            records[key] = record
    return records


def result_files(profile: str, root: Path, *, built: bool = False) -> list[Path]:
    """The results of a profile, one file a chapter: the committed ones, or those of the last build."""
    folder = chapters.built_results(root, profile) if built else chapters.committed_results(root, profile)
    return sorted(folder.glob("*.json"))


def load_result(path: Path) -> dict[str, Any]:
    """One chapter's results. Raises ValueError where the file is not what a run of a chapter writes."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        for record in result["records"].values():
            if not record["values"] or not all(math.isfinite(value) for value in record["values"]):
                raise ValueError("a record without finite values")
            formatted(record["values"], unit=record["unit"], digits=record["digits"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path.name} of the {path.parent.name} profile is damaged ({error}): run its chapter again"
        ) from error
    return result


def bibliography_keys(root: Path) -> set[str]:
    """The keys of ``survey/references.bib``."""
    path = root / "survey" / "references.bib"
    return (
        set(re.findall(r"^\s*@\w+\s*\{\s*([^,\s]+)", path.read_text(encoding="utf-8"), re.M))
        if path.exists()
        else set()
    )


def cited(text: str) -> list[str]:
    """The keys that a Markdown text cites with ``{cite}`` and its kin."""
    return [key.strip() for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text) for key in keys.split(",")]


def load_techniques(root: Path) -> dict[str, Any]:
    """``survey/techniques.yml``: ``here``, a list of rows, and ``not_yet_here``, section -> ids."""
    catalogue = _yaml(root / "survey" / "techniques.yml")
    known, claims = bibliography_keys(root), {claim.id for claim in load_claims(root)}
    fields = {"id", "name", "section", "idea", "source", "file", "test", "chapter", "anchor", "claims"}
    for row in catalogue["here"]:
        where = f"the technique {row.get('id')!r}"
        if set(row) != fields:
            raise ValueError(f"{where} has the fields {', '.join(sorted(row))}: needed are {', '.join(sorted(fields))}")
        for key in row["source"]:
            if key not in known:
                raise ValueError(f"{where} cites {key!r}, which is not in survey/references.bib")
        for id in row["claims"]:
            if id not in claims:
                raise ValueError(f"{where} names the claim {id!r}, which is not in survey/claims")
    ids = [row["id"] for row in catalogue["here"]] + [id for ids in catalogue["not_yet_here"].values() for id in ids]
    if twice := [id for id, n in Counter(ids).items() if n > 1]:
        raise ValueError(f"the technique {twice[0]!r} stands in the catalogue twice: each has one row")
    for section in {row["section"] for row in catalogue["here"]} | set(catalogue["not_yet_here"]):
        if section not in SECTIONS:
            raise ValueError(f"the catalogue names section {section!r}: accepted are {', '.join(SECTIONS)}")
    return catalogue


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not readable YAML: {' '.join(str(error).split())}") from error


def _claim(raw: Any, chapter: str, known: set[str]) -> Claim:
    if not isinstance(raw, dict):
        raise ValueError(f"{chapter}.yml holds {raw!r}: each claim is a mapping that begins with its id")
    id = raw.get("id")
    section = raw.get("section")
    if section not in SECTIONS:
        raise ValueError(f"claim {id}: its section is {section!r}, accepted are (in quotes) {', '.join(SECTIONS)}")
    kinds = [f"C{section}", *(["T1"] if section == "4" else [])]  # T1: of Table 1
    if not isinstance(id, str) or not re.fullmatch(rf"({'|'.join(map(re.escape, kinds))})-\d\d", id):
        form = " or ".join(f"{kind}-NN" for kind in kinds)
        raise ValueError(f"claim {id!r}: an id of section {section} has the form {form}, for instance C{section}-07")
    if unknown := set(raw) - FIELDS:
        raise ValueError(f"claim {id}: the field {min(unknown)!r} is unknown, accepted are {', '.join(sorted(FIELDS))}")
    for name in ("says", "verdict", *({"erratum", "because"} & set(raw))):
        if not isinstance(raw.get(name), str) or not raw[name].strip():
            raise ValueError(f"claim {id}: its {name!r} is {raw.get(name)!r}, and a sentence is needed")
    reported = raw.get("reported")
    if reported is not None and (not isinstance(reported, dict) or "value" not in reported or set(reported) - REPORTED):
        raise ValueError(
            f"claim {id}: 'reported' is {reported!r}, accepted are value (needed), {', '.join(sorted(REPORTED))}"
        )
    sources = [key for name in ("says", "erratum", "because") for key in cited(raw.get(name, ""))]
    sources += [reported["source"]] if reported and "source" in reported else []
    for key in sources:
        if key not in known:
            raise ValueError(f"claim {id}: the source {key!r} is not in survey/references.bib")
    if raw["verdict"] not in VERDICTS:
        raise ValueError(f"claim {id}: the verdict {raw['verdict']!r} is unknown, accepted are {', '.join(VERDICTS)}")
    if raw.get("kind") not in (None, "historical"):
        raise ValueError(f"claim {id}: the kind {raw['kind']!r} is unknown, accepted is 'historical'")
    if raw["verdict"] == NOT_TESTABLE:
        if "because" not in raw or "decided_by" in raw:
            raise ValueError(f"claim {id}: a claim not testable here says 'because' and has no 'decided_by'")
    elif not raw.get("decided_by"):
        raise ValueError(f"claim {id}: the verdict {raw['verdict']!r} needs 'decided_by' with the rules that decide it")
    elif "kind" in raw:
        raise ValueError(f"claim {id}: a historical claim is 'not testable here'; its verdict is {raw['verdict']!r}")
    texts = {name: raw.get(name) for name in ("says", "verdict", "reported", "erratum", "because", "kind")}
    rules = _rules(id, raw.get("decided_by", {}))
    return Claim(id, section, chapter, rules=rules, elsewhere=_elsewhere(id, raw, rules), **texts)


def _elsewhere(id: str, raw: dict[str, Any], rules: dict[str, tuple[Rule, ...]]) -> tuple[str, ...]:
    """The verdicts that other processors give. Only times differ between them: a claim without any has one verdict."""
    if "elsewhere" not in raw:
        return ()
    others = set(VERDICTS) - {raw["verdict"], NOT_TESTABLE}
    found = raw["elsewhere"]
    if not isinstance(found, list) or not found or not set(map(str, found)) <= others:
        raise ValueError(f"claim {id}: 'elsewhere' is {found!r}, accepted is a list of {', '.join(sorted(others))}")
    if not any(rule.timing for rules_of_profile in rules.values() for rule in rules_of_profile):
        raise ValueError(
            f"claim {id}: no time decides it, so its verdict is the same on every processor: leave 'elsewhere' out"
        )
    return tuple(found)


REPORTED = {"value", "unit", "where", "source"}


def _rules(id: str, decided_by: Any) -> dict[str, tuple[Rule, ...]]:
    if not isinstance(decided_by, dict):
        raise ValueError(f"claim {id}: 'decided_by' is {decided_by!r}, and a list of rules for each profile is needed")
    found = {}
    for profile, rules in decided_by.items():
        if profile not in PROFILES:
            raise ValueError(f"claim {id}: the profile {profile!r} is unknown, accepted are {', '.join(PROFILES)}")
        if not isinstance(rules, list) or not rules:
            raise ValueError(
                f"claim {id}: the rules of the {profile} profile are {rules!r}, and at least one is needed"
            )
        found[profile] = tuple(_rule(id, rule) for rule in rules)
        if all(rule.timing for rule in found[profile]):
            raise ValueError(
                f"claim {id}: in the {profile} profile only timing decides it ({found[profile][0].key}):"
                " add a rule about bytes, multiply-adds or accuracy"
            )
    return found


def _rule(id: str, raw: Any) -> Rule:
    words = WORDS & set(raw) if isinstance(raw, dict) else set()
    if len(words) != 1 or "key" not in raw:
        raise ValueError(f"claim {id}: the rule {raw!r} needs 'key' and exactly one of {', '.join(sorted(WORDS))}")
    (word,) = words
    partners = PARTNERS.get(word, set())
    allowed = {"key", word} | (partners or {"above"})
    if set(raw) - allowed or not partners <= set(raw):
        raise ValueError(f"claim {id}: the rule {raw!r} has other parts than {', '.join(sorted(allowed))}")
    other = raw[word] if word == "exceeds" else raw.get("of", raw.get("above"))
    for key in (raw["key"], *([other] if isinstance(other, str) else [])):
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise ValueError(f"claim {id}: the rule's key {key!r} is not of the form chapter.subject.metric")
    if other is not None and not isinstance(other, str):
        other = _bound(id, raw, other)
    if word == "between":
        if not isinstance(raw[word], list) or len(raw[word]) != 2:
            raise ValueError(f"claim {id}: the rule {raw!r} needs two bounds, [low, high]")
        low, high = (_bound(id, raw, bound) for bound in raw[word])
    else:
        bound = _bound(id, raw, raw["by"] if word == "exceeds" else raw[word])
        low = -bound if word == "within" else -math.inf if word == "at_most" else bound
        high = bound if word in ("within", "at_most") else math.inf
    if low > high:
        raise ValueError(f"claim {id}: no value can satisfy the rule {raw!r}: its lower bound is above its upper one")
    return Rule(raw["key"], other, low, high, word)


def _bound(id: str, raw: Any, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"claim {id}: the bound {value!r} in the rule {raw!r} is not a finite number")
    return value


# --- judging -----------------------------------------------------------------------------------------------------


def judge(claim: Claim, profile: str, records: Records) -> Judgement | None:
    """What the records of ``profile`` say of the claim; None where it has no rules for that profile.

    Raises ValueError for a rule about a key that was not recorded, or about seeds that cannot be paired.
    """
    if profile not in claim.rules:
        return None
    findings = tuple(_finding(claim.id, rule, profile, records) for rule in claim.rules[profile])
    return Judgement(profile, combined(finding.outcome for finding in findings), findings)


def combined(outcomes: Iterable[str]) -> str:
    """The verdict that is certain whichever way the straddling rules would fall."""
    seen = set(outcomes)
    if {HOLDS, FAILS} <= seen:
        return IN_PART
    return {frozenset({HOLDS}): SUPPORTED, frozenset({FAILS}): CONTRADICTED}.get(frozenset(seen), UNDECIDED)


def outcome(values: Iterable[float], low: float, high: float) -> str:
    """Does the 95 % interval of the values' mean lie inside [low, high] (holds), outside (fails), or across a bound?"""
    mean, half = interval(list(values))
    least, most = mean - half, mean + half
    if _at_least(least, low) and _at_least(high, most):
        return HOLDS
    return STRADDLES if _at_least(most, low) and _at_least(high, least) else FAILS


def gate(root: Path, profile: str) -> tuple[dict[str, int], list[str]]:
    """Hold every verdict against the results of this build and against the committed ones of the standard profile.

    Returns how many verdicts were judged in each, and one sentence for each failure; none judged is a failure too.
    """
    try:
        claims = load_claims(root)
    except ValueError as error:
        return {f"{profile} build": 0}, [str(error)]
    judged, failures = {}, []
    for name, built in ((profile, True), (PUBLISHED, False)):
        place = f"{name} build" if built else f"{name} records"
        judged[place] = 0
        try:
            records = load_results(name, root, built=built)
        except ValueError as error:
            failures.append(str(error))
            continue
        if not records:
            do = f"make book PROFILE={name}" if built else f"make record PROFILE={name}"
            failures.append(f"the {place} hold no record: run `{do}`")
            continue
        for claim in claims:
            try:
                judgement = judge(claim, name, records)
            except ValueError as error:
                failures.append(str(error))
                continue
            if judgement is not None:
                judged[place] += 1
                failures += [f"{place}: {sentence}"] if (sentence := contradiction(claim, judgement)) else []
    if not sum(judged.values()):
        failures.append(f"no verdict was judged in {' or '.join(judged)}: the ledger needs rules for one of them")
    return judged, failures


def contradiction(claim: Claim, judgement: Judgement) -> str | None:
    """The sentence to fail with where a measurement gives another verdict than those that we hold."""
    if judgement.verdict in (claim.verdict, UNDECIDED, *claim.elsewhere) or claim.verdict == UNDECIDED:
        return None
    values = "; ".join(f"{quantity(f.rule)} is {measured(f)}, {f.outcome}" for f in judgement.findings)
    return (
        f"claim {claim.id} is held {claim.verdict!r}, but the {judgement.profile} profile gives"
        f" {judgement.verdict!r}: {values}"
    )


def shown(claim: Claim, found: list[Judgement], profile: str) -> str:
    """The verdict to show: the measured one of this profile, else what cannot be tested or was not measured here."""
    if claim.verdict == NOT_TESTABLE:
        return NOT_TESTABLE
    return next((judgement.verdict for judgement in found if judgement.profile == profile), NOT_MEASURED)


def judgements(claim: Claim, profile: str, results: dict[str, Records]) -> list[Judgement]:
    """The claim's judgements in this profile and in the published one, where it has rules and they have results."""
    found = (judge(claim, name, results[name]) for name in dict.fromkeys((profile, PUBLISHED)) if results.get(name))
    return [judgement for judgement in found if judgement is not None]


def tally(claims: list[Claim], profile: str, results: dict[str, Records]) -> dict[str, int]:
    """How many claims have which verdict in this profile, in the order of the verdicts, without the empty ones."""
    counts = Counter(shown(claim, judgements(claim, profile, results), profile) for claim in claims)
    return {verdict: counts[verdict] for verdict in (*VERDICTS, NOT_MEASURED) if counts[verdict]}


def quantity(rule: Rule, quote: str = "") -> str:
    """What the rule is about: ``key`` or ``key minus other``, the keys between ``quote``."""
    if rule.other is None:
        return f"{quote}{rule.key}{quote}"
    other = f"{quote}{rule.other}{quote}" if isinstance(rule.other, str) else f"{rule.other:g}"
    return f"{quote}{rule.key}{quote} minus {other}"


def measured(finding: Finding) -> str:
    """The quantity's measured value, as a page prints it; a difference of percentages is in points."""
    return formatted(list(finding.values), unit=unit(finding), digits=finding.digits)


def unit(finding: Finding) -> str:
    return "points" if finding.unit == "%" and finding.rule.other is not None else finding.unit


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
