"""What was measured for a claim, in one plain sentence: the value, and by how much its rule holds or fails.

The sentence states the rule that decides the verdict, and counts the others. It is computed from the records alone::

    Measured for LeNet-5: error 1.56 %, 0.06 points above dense error; up to 0.30 points above would do.
    Timed for signs: latency ratio 6.9×, 7.6 times the allowed 0.9×; the other rule fails.
"""

import math
import re
from collections import Counter

from lib.book.claims import CONTRADICTED, IN_PART, NOT_TESTABLE, UNDECIDED, Claim
from lib.book.judging import EXACT, FAILS, HOLDS, SAMPLED, STRADDLES, TIMED, TOO_FEW, Finding, Judgment, judgments
from lib.book.ledger import Records
from lib.book.wording import unit
from lib.evidence import formatted, interval, unbroken

BEGINS = {EXACT: "Computed", TIMED: "Timed", SAMPLED: "Measured"}
DECIDING = {CONTRADICTED: (FAILS,), IN_PART: (FAILS,), UNDECIDED: (STRADDLES, TOO_FEW)}  # else what holds
OPEN = {STRADDLES: "too uncertain to tell", TOO_FEW: "too few seeds to tell"}
COUNTS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
TIMES, FAR = 3, 20  # from this many times the bound on, say how many; below one part in FAR, say far
NAMES = {  # words of keys that are names
    "abc1": "ABC-Net, one base",
    "abc3": "ABC-Net, three bases",
    "abc5": "ABC-Net, five bases",
    "adam": "Adam",
    "alexnet": "AlexNet",
    "bnn": "BNN",
    "bo": "Bayesian optimization",
    "bsn": "budgeted super network",
    "bwn": "BWN",
    "cnn": "CNN",
    "codeepneat": "CoDeepNEAT",
    "cp": "CP",
    "enas": "ENAS",
    "gcs": "GCS",
    "gng": "GNG",
    "googlenet": "GoogLeNet",
    "gru": "GRU",
    "gxnor": "GXNOR",
    "imagenet": "ImageNet",
    "l1": "L1",
    "lenet300": "LeNet-300-100",
    "lenet5": "LeNet-5",
    "lstm": "LSTM",
    "mlp": "MLP",
    "mnasnet": "MnasNet",
    "mobilenet": "MobileNet",
    "neat": "NEAT",
    "nst": "NST",
    "obs": "OBS",
    "ppm": "",
    "rbf": "RBF",
    "resnet": "ResNet",
    "resnet18": "ResNet-18",
    "resnet8": "ResNet-8",
    "segnet": "Squeeze-SegNet",
    "squeezenet": "SqueezeNet",
    "svd": "SVD",
    "torchvision": "torchvision",
    "vgg": "VGG",
    "vgg16": "VGG-16",
    "weights1": "one base for weights",
    "weights3": "three bases for weights",
    "weights5": "five bases for weights",
    "xnor": "XNOR",
}
NUMBERED = re.compile(r"(?!conv|float|bfloat|fixed|int)([a-z]{3,})(\d+)")  # a word with a setting, no name or format


def told(claim: Claim, profile: str, results: dict[str, Records]) -> str:
    """Return the sentence about a claim, for the build's profile or else for the published one.

    claim: any claim.
    profile: the profile of the build.
    results: {profile: measurements}.
    """
    if claim.verdict == NOT_TESTABLE:
        return f"Not testable here: {claim.because}"
    judged = judgments(claim, profile, results)
    if not judged:
        return f"The {profile} profile does not measure it."
    where = "" if judged[0].profile == profile else f" ({judged[0].profile} profile)"
    return sentence(judged[0], results[judged[0].profile], where)


def sentence(judgment: Judgment, records: Records, where: str = "") -> str:
    """Return what decides a judgment, in one sentence of at most three numbers.

    judgment: of any claim.
    records: the measurements of its profile.
    where: words after the first one, such as `` (standard profile)``; default none.
    """
    wanted = DECIDING.get(judgment.verdict, (HOLDS,))
    main = next(finding for finding in judgment.findings if finding.outcome in wanted)
    others = Counter(finding.outcome for finding in judgment.findings if finding is not main)
    said = f"{BEGINS[main.kind]}{where} for {name(main.rule.key)[0]}: {_compared(main, records)}"
    return unbroken("; ".join([said, *_others(others)]) + ".")


def name(key: str) -> tuple[str, str]:
    """Return what a key is about and what it counts, in words.

    key: ``chapter.subject.metric``.

    >>> name("pruning.lenet300.removed_pct"), name("distillation.race.svd_gain_points")
    (('LeNet-300-100', 'removed'), ('race', 'SVD gain'))
    """
    subject, metric = key.split(".", 1)[1].rsplit(".", 1)
    short = re.sub(r"_(?:pct|points|bytes|mb)$", "", metric)
    return _words(subject.replace(".", " ")), _words(short)


def limit(finding: Finding, bound: float) -> str:
    """Return a bound of a rule in the unit of what the rule is about.

    finding: of the rule.
    bound: the number.
    """
    suffix = {"x": "×", "×": "×", "": ""}.get(unit(finding), f" {unit(finding)}")
    return _singular(f"{plain(bound)}{suffix}")


def plain(value: float) -> str:
    """Return a number as it is written in a sentence: without an exponent, with a real minus sign.

    >>> plain(-0.00001), plain(12345)
    ('−0.00001', '12,345')
    """
    text = f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"
    return (f"{value:.12f}".rstrip("0") if "e" in text else text).replace("-", "−")


def _words(text: str) -> str:
    found = map(_word, text.replace("multiply_adds", "multiply-adds").replace("_", " ").split())
    return " ".join(filter(None, found)) or text


def _word(word: str) -> str:
    """A word of a key as text: its proper name, or with a hyphen before its number."""
    numbered = None if word in NAMES else NUMBERED.fullmatch(word)
    if not numbered:
        return NAMES.get(word, word)
    return f"{_word(numbered[1])}-{numbered[2]}"


def _compared(finding: Finding, records: Records) -> str:
    """The value, and how it compares with its bound."""
    rule = finding.rule
    if rule.other is None:
        return _alone(finding)
    value = _text(finding, _mean(records[rule.key]["values"]), of_key=True)
    (subject, metric), distance = name(rule.key), _mean(finding.values)
    if not isinstance(rule.other, str):
        need = f"{plain(rule.other)}, give or take {plain(rule.high)},"
        if rule.word != "within":
            need = f"{_side(finding)} {plain(rule.other)}"
        return f"{metric} {value}; {need} {_asks(finding)}"
    other = name(rule.other)
    against = other[1] if other[0] == subject else other[0] if other[1] == metric else f"{other[1]} of {other[0]}"
    shown = _text(finding, abs(distance))
    how = "above" if distance > 0 else "below"
    beside = f"{shown} {how} {against}" if re.search("[1-9]", shown) else f"level with {against}"
    return f"{metric} {value}, {beside}; {_side(finding)} {_asks(finding)}"


def _alone(finding: Finding) -> str:
    """The value of a rule about one quantity, and its distance from the bound."""
    rule, value = finding.rule, _mean(finding.values)
    said = f"{name(rule.key)[1]} {_text(finding, value, of_key=True)}"
    ranged = -math.inf < rule.low and rule.high < math.inf
    bound = rule.low if rule.high == math.inf or (ranged and value < (rule.low + rule.high) / 2) else rule.high
    given, asked = ("needed", "required") if bound == rule.low else ("allowed", "allowed")
    if ranged and finding.outcome == HOLDS:
        if rule.low == rule.high:
            return f"{said}, exactly as it must be"
        return f"{said}, within the allowed {plain(rule.low)} to {limit(finding, rule.high)}"
    word = "at least" if bound == rule.low else "at most"
    if finding.outcome in OPEN:
        return f"{said}; {word} {limit(finding, bound)} is {given}: {OPEN[finding.outcome]}"
    if math.isclose(value, bound, rel_tol=1e-9, abs_tol=1e-12):
        return f"{said}, just what is {given}"
    if bound == 0:
        side = "more" if bound == rule.low else "less"
        return f"{said}; {limit(finding, bound)} or {side} {'would do' if finding.outcome == HOLDS else 'is needed'}"
    if bound > 0 and value / bound >= TIMES and finding.unit not in ("%", "points"):
        return f"{said}, {_multiple(value / bound)} times the {asked} {limit(finding, bound)}"
    side = "above" if value > bound else "below"
    distance = "far" if 0 <= value * FAR < bound else _text(finding, abs(value - bound), distance=True)
    return f"{said}, {distance} {side} the {asked} {limit(finding, bound)}"


def _side(finding: Finding) -> str:
    """What a rule asks of a difference, in words."""
    rule = finding.rule
    if rule.word == "within":
        return f"up to {limit(finding, rule.high)} either way"
    if rule.word == "between":
        return f"{plain(rule.low)} to {limit(finding, rule.high)} above"
    most = rule.low == -math.inf
    bound = rule.high if most else rule.low
    if bound == 0:
        return f"as much or {'less' if most else 'more'}"
    word = "up to" if most == (bound > 0) else "at least"
    return f"{word} {limit(finding, abs(bound))} {'above' if bound > 0 else 'below'}"


def _asks(finding: Finding) -> str:
    """The end of a sentence: whether what the rule asks was reached, was missed, or is left open."""
    if finding.outcome == HOLDS:
        return "would do"
    asks = "is allowed" if _side(finding).startswith("up to") else "is needed"
    return f"{asks}: {OPEN[finding.outcome]}" if finding.outcome in OPEN else asks


def _others(outcomes: Counter[str]) -> list[str]:
    """How the other rules came out, in words; nothing if there are none."""
    n = sum(outcomes.values())
    if not n:
        return []
    open_ones = outcomes[STRADDLES] + outcomes[TOO_FEW]
    ends = [(outcomes[HOLDS], "hold"), (outcomes[FAILS], "fail"), (open_ones, "stay open")]
    said = [f"{_count(k)} {_verb(verb, k).split()[-1]}" for k, verb in ends if k]
    if len(said) > 1:
        return [f"others: {', '.join(said)}"]
    verb = next(verb for k, verb in ends if k)
    if n == 1:
        return [f"the other rule {_verb(verb, 1)}"]
    return [f"{'both' if n == 2 else f'the {_count(n)}'} other rules {verb}"]


def _verb(verb: str, n: int) -> str:
    first, _, rest = verb.partition(" ")
    return verb if n > 1 else f"{first}s {rest}".rstrip()


def _count(n: int) -> str:
    return COUNTS[n] if n < len(COUNTS) else str(n)


def _mean(values: list[float] | tuple[float, ...]) -> float:
    return interval(list(values))[0]


def _text(finding: Finding, value: float, *, of_key: bool = False, distance: bool = False) -> str:
    """A value in its unit; a distance between shares is in points, with enough digits not to round to zero."""
    shown, digits = (finding.unit if of_key else unit(finding)), finding.digits
    if distance:
        shown = "points" if shown in ("%", "points") else ""
        while digits < 12 and not re.search("[1-9]", f"{value:.{digits}f}"):
            digits += 1
    elif of_key and shown and shown in name(finding.rule.key)[1].split():
        shown = ""  # "different sums 0", not "different sums 0 sums"
    return _singular(formatted([value], unit=shown, digits=digits))


def _multiple(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _singular(text: str) -> str:
    return re.sub(r"^1 (point|value|pattern|epoch|sum|bit|byte|step|number|move|sign|kind)s\b", r"1 \1", text)
