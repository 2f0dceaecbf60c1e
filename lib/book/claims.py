"""What a claim of the survey is, and which rules may decide it.

``survey/claims/<chapter>.yml`` is a list of claims::

    - id: C2.4-12                        # C<section>-NN, or T1-NN of Table 1 (section 4), once in the whole book
      section: "2.4"
      says: our paraphrase of the survey's sentence
      reported: {value: 40, unit: x, where: Table 1, source: han2016deep}       # optional; only `value` is needed
      erratum: what the source says, and where                                  # optional, shown beside the verdict
      changed: which rule was held before a result was seen, and why it changed # optional, shown beside the verdict
      kind: by definition                                                       # optional, see below
      every: true                                                               # optional: one failing rule contradicts
      decided_by:
        quick: [{key: quantization.lenet300.file_ratio, at_least: 15}]
        standard:
          - {key: quantization.lenet300.file_ratio, at_least: 40}
          - {key: quantization.lenet300.error_pct, at_most: 0.1, above: quantization.lenet300.baseline_error_pct}
      verdict: supported                 # what we hold today; the build fails if the standard profile says otherwise
      elsewhere: [supported in part]     # optional: what other processors give, where a time decides
      otherwise: {quick: contradicted}   # optional: a profile that gives another verdict, shown beside it

A claim that nothing here can decide has ``verdict: not testable here`` and ``because:`` instead of ``decided_by``.
Text fields are Markdown and may cite: ``{cite:t}`han2016deep` ``.

A rule compares a measured quantity with bounds::

    {key: k, at_least: x}      {key: k, at_most: x}      {key: k, between: [a, b]}
    {key: k, at_least: x, above: other}       the same about the difference k - other; also at_most, between
    {key: k, within: d, of: other}            the difference lies between -d and d
    {key: k, exceeds: other, by: d}           the difference is at least d

``other`` is a key or a number. :mod:`lib.book.judging` says how rules and verdicts come from measurements.
``kind`` marks a claim that is not an ordinary measured one:

- ``historical``: about names and dates; not testable here.
- ``by definition``: decided by a definition, a setting, a formula or an exact count, which no seed can change. These
  claims are counted separately.
- ``time``: the sentence is about time, so times alone may decide it. Where the verdict depends on the processor,
  ``elsewhere`` lists the other verdicts that were seen.

``every`` marks a universal (always, all, whatever): one counterexample refutes it.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from lib.evidence import KEY

PROFILES = ("quick", "standard", "full")
PUBLISHED = "standard"  # the profile whose verdicts are the book's
SECOND = "fashion"  # the published profile on data on which nothing was tuned, judged by the same rules
SUPPORTED, IN_PART, CONTRADICTED, UNDECIDED, NOT_TESTABLE = VERDICTS = (
    "supported",
    "supported in part",
    "contradicted",
    "undecided",
    "not testable here",
)
SECTIONS = {
    "1": "Introduction",
    "2.1": "Knowledge distillation",
    "2.2": "Hashing",
    "2.3": "Pruning",
    "2.4": "Quantization",
    "2.5": "Reducing numerical precision",
    "2.6": "Binarization",
    "3": "Architecture optimization",
    "3.1": "Architecture overview",
    "3.2": "Neural architecture search",
    "3.2.1": "Self-organization",
    "3.2.2": "Neuroevolution",
    "3.2.3": "Network morphism",
    "3.2.4": "Supergraphs",
    "4": "Discussion and conclusion",
}
HISTORICAL, BY_DEFINITION, TIME = KINDS = ("historical", "by definition", "time")
TEXTS = {"erratum", "changed", "because"}
FIELDS = {
    "id",
    "section",
    "says",
    "reported",
    "kind",
    "every",
    "decided_by",
    "verdict",
    "elsewhere",
    "otherwise",
} | TEXTS
REPORTED = {"value", "unit", "where", "source"}
WORDS = {"at_least", "at_most", "between", "within", "exceeds"}
OURS = re.compile(r"\s*\((?:([^()]*);\s)?here\b", re.IGNORECASE)  # where a claim begins to say what is measured
PARTNERS = {"within": {"of"}, "exceeds": {"by"}}  # every other word may have `above`


@dataclass(frozen=True)
class Rule:
    """``key - other`` (or ``key`` alone) lies in [low, high]; ``word`` is the ledger's word for it."""

    key: str
    other: str | float | None
    low: float
    high: float
    word: str

    @property
    def keys(self) -> list[str]:
        """The measurements that the rule needs."""
        return [self.key, *([self.other] if isinstance(self.other, str) else [])]


@dataclass(frozen=True)
class Claim:
    """One checkable sentence of the survey; ``rules`` is {profile: rules}."""

    id: str
    section: str
    chapter: str
    says: str
    verdict: str
    rules: dict[str, tuple[Rule, ...]]
    reported: dict[str, Any] | None = None
    erratum: str | None = None
    changed: str | None = None
    because: str | None = None
    kind: str | None = None
    every: bool = False
    elsewhere: tuple[str, ...] = ()
    otherwise: dict[str, str] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What the survey says, on one line: ``says`` without the book's additions, ``(here ...)`` or ``Here: ...``."""
        text = re.split(r"(?<=[.!?])\s+Here\b", " ".join(self.says.split()))[0]
        while added := OURS.search(text):
            end = text.index("(", added.start())
            depth = 1
            while depth and end < len(text) - 1:
                end += 1
                depth += {"(": 1, ")": -1}.get(text[end], 0)
            text = text[: added.start()] + (f" ({added[1]})" if added[1] else "") + text[end + 1 :]
        return text

    def keys(self, profile: str) -> set[str]:
        """Return the keys of the measurements that its rules for a profile need; none if it has no such rules."""
        return {key for rule in self.rules.get(profile, ()) for key in rule.keys}


def cited(text: str) -> list[str]:
    """Return the keys that a Markdown text cites, with ``{cite}`` or a variant such as ``{cite:t}``."""
    return [key.strip() for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text) for key in keys.split(",")]


def parsed(raw: Any, chapter: str, known: set[str]) -> Claim:
    """Turn one entry of a file of claims into a claim.

    raw: the entry as YAML gives it.
    chapter: the chapter that decides it, which is the name of the file.
    known: the keys of the bibliography.
    Raises ValueError, with one sentence, for anything wrong with it.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{chapter}.yml: each claim must be a mapping that begins with its id, not {raw!r}")
    id = _id(raw)
    if unknown := set(raw) - FIELDS:
        raise ValueError(f"claim {id}: a field must be one of {', '.join(sorted(FIELDS))}, not {min(unknown)!r}")
    for name in ("says", "verdict", *sorted(TEXTS & set(raw))):
        if not isinstance(raw.get(name), str) or not raw[name].strip():
            raise ValueError(f"claim {id}: its {name!r} must be a sentence, not {raw.get(name)!r}")
    _check_sources(id, raw, known)
    _check_verdict(id, raw)
    rules = _rules(id, raw.get("decided_by", {}))
    elsewhere, otherwise = _elsewhere(id, raw), _otherwise(id, raw, rules)
    fields = {name: raw[name] for name in raw if name not in ("decided_by", "elsewhere", "otherwise")}
    return Claim(chapter=chapter, rules=rules, elsewhere=elsewhere, otherwise=otherwise, **fields)


def _id(raw: dict[str, Any]) -> str:
    id, section = raw.get("id"), raw.get("section")
    if section not in SECTIONS:
        raise ValueError(f"claim {id}: its section must be, in quotes, one of {', '.join(SECTIONS)}, not {section!r}")
    kinds = [f"C{section}", *(["T1"] if section == "4" else [])]  # T1: of Table 1
    if not isinstance(id, str) or not re.fullmatch(rf"({'|'.join(map(re.escape, kinds))})-\d\d", id):
        form = " or ".join(f"{kind}-NN" for kind in kinds)
        raise ValueError(f"an id of section {section} must have the form {form}, like C{section}-07, not {id!r}")
    return id


def _check_sources(id: str, raw: dict[str, Any], known: set[str]) -> None:
    reported = raw.get("reported")
    if reported is not None and (not isinstance(reported, dict) or "value" not in reported or set(reported) - REPORTED):
        fields = ", ".join(sorted(REPORTED))
        raise ValueError(f"claim {id}: 'reported' must be a mapping of {fields}, with a value, not {reported!r}")
    sources = [key for name in ("says", *sorted(TEXTS)) for key in cited(raw.get(name, ""))]
    sources += [reported["source"]] if reported and "source" in reported else []
    for key in sources:
        if key not in known:
            raise ValueError(f"claim {id}: the source {key!r} is not in survey/references.bib")


def _check_verdict(id: str, raw: dict[str, Any]) -> None:
    verdict = raw["verdict"]
    if verdict not in VERDICTS:
        raise ValueError(f"claim {id}: its verdict must be one of {', '.join(VERDICTS)}, not {verdict!r}")
    if raw.get("kind") not in (None, *KINDS):
        raise ValueError(f"claim {id}: its kind must be one of {', '.join(KINDS)}, or left out, not {raw['kind']!r}")
    if raw.get("every", True) is not True:
        raise ValueError(f"claim {id}: 'every' must be true or left out, not {raw['every']!r}")
    if verdict == NOT_TESTABLE:
        if "because" not in raw or "decided_by" in raw:
            raise ValueError(f"claim {id}: a claim not testable here must have 'because' and no 'decided_by'")
    elif not raw.get("decided_by"):
        raise ValueError(f"claim {id}: the verdict {verdict!r} needs 'decided_by' with the rules that decide it")
    elif raw.get("kind") == HISTORICAL:
        raise ValueError(f"claim {id}: the verdict of a historical claim must be {NOT_TESTABLE!r}, not {verdict!r}")


def _otherwise(id: str, raw: dict[str, Any], rules: dict[str, tuple[Rule, ...]]) -> dict[str, str]:
    """The profiles that give another verdict than the published one, and their verdicts."""
    if "otherwise" not in raw:
        return {}
    profiles, others = set(rules) - {PUBLISHED}, set(VERDICTS) - {raw["verdict"], NOT_TESTABLE}
    given = raw["otherwise"]
    if not isinstance(given, dict) or not given or set(given) - profiles or set(map(str, given.values())) - others:
        raise ValueError(
            f"claim {id}: 'otherwise' must be {{profile: verdict}}, of {', '.join(sorted(profiles)) or 'no profile'}"
            f" and {', '.join(sorted(others))}, not {given!r}"
        )
    return given


def _elsewhere(id: str, raw: dict[str, Any]) -> tuple[str, ...]:
    """The verdicts that other processors give."""
    if "elsewhere" not in raw:
        return ()
    others = set(VERDICTS) - {raw["verdict"], NOT_TESTABLE}
    verdicts = raw["elsewhere"]
    if not isinstance(verdicts, list) or not verdicts or not set(map(str, verdicts)) <= others:
        raise ValueError(f"claim {id}: 'elsewhere' must be a list of {', '.join(sorted(others))}, not {verdicts!r}")
    return tuple(verdicts)


def _rules(id: str, decided_by: Any) -> dict[str, tuple[Rule, ...]]:
    if not isinstance(decided_by, dict):
        raise ValueError(f"claim {id}: 'decided_by' must be {{profile: [rule, ...]}}, not {decided_by!r}")
    rules: dict[str, tuple[Rule, ...]] = {}
    for profile, entries in decided_by.items():
        if profile not in PROFILES:
            raise ValueError(f"claim {id}: a profile must be one of {', '.join(PROFILES)}, not {profile!r}")
        if not isinstance(entries, list) or not entries:
            raise ValueError(
                f"claim {id}: the rules of the {profile} profile must be a list of at least one, not {entries!r}"
            )
        rules[profile] = tuple(_rule(id, entry) for entry in entries)
    return rules


def _rule(id: str, raw: Any) -> Rule:
    words = WORDS & set(raw) if isinstance(raw, dict) else set()
    if len(words) != 1 or "key" not in raw:
        raise ValueError(
            f"claim {id}: a rule must be a mapping with 'key' and one of {', '.join(sorted(WORDS))}, not {raw!r}"
        )
    (word,) = words
    partners = PARTNERS.get(word, set())
    allowed = {"key", word} | (partners or {"above"})
    if set(raw) - allowed or not partners <= set(raw):
        raise ValueError(f"claim {id}: a rule with {word!r} must be made of {', '.join(sorted(allowed))}, not {raw!r}")
    other = raw[word] if word == "exceeds" else raw.get("of", raw.get("above"))
    for key in (raw["key"], *([other] if isinstance(other, str) else [])):
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise ValueError(f"claim {id}: the key of a rule must have the form chapter.subject.metric, not {key!r}")
    if other is not None and not isinstance(other, str):
        other = _bound(id, raw, other)
    if word == "between":
        if not isinstance(raw[word], list) or len(raw[word]) != 2:
            raise ValueError(f"claim {id}: 'between' must be two bounds, [low, high], not {raw[word]!r}")
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
        raise ValueError(f"claim {id}: a bound must be a finite number, not {value!r}, in the rule {raw!r}")
    return value
