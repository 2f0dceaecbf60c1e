"""One plain sentence on what was measured for a claim, for every form of rule and every outcome."""

import re
from pathlib import Path

import pytest

from lib.book import claims, judging, ledger, telling

PROJECT = Path(__file__).parents[2]
A, B, SPEED = "pruning.lenet5.error_pct", "pruning.lenet5.dense_error_pct", "pruning.signs.latency_ratio"


def record(*values: float, unit: str = "%", digits: int = 2, **flags: bool) -> dict:
    return {"values": list(values), "unit": unit, "digits": digits} | flags


def seeds(mean: float, spread: float = 0.01) -> tuple[float, float, float]:
    return mean - spread, mean, mean + spread


def claim(*rules: dict, verdict: str = "supported", every: bool = False) -> claims.Claim:
    raw = {"id": "C2.3-01", "section": "2.3", "says": "A sentence.", "verdict": verdict}
    raw |= {"decided_by": {"standard": list(rules)}} | ({"every": True} if every else {})
    return claims.parsed(raw, "pruning", set())


def told(*rules: dict, every: bool = False, **records: dict) -> str:
    found = {A: record(*seeds(1.56)), B: record(*seeds(1.50))} | {
        key.replace("__", "."): r for key, r in records.items()
    }
    text = telling.told(claim(*rules, every=every), "standard", {"standard": found})
    return text.replace("\N{NO-BREAK SPACE}", " ")


ERROR = {"key": A}
DIFFERENCE = {"key": A, "above": B}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (ERROR | {"at_most": 2}, "error 1.56 %, 0.44 points below the allowed 2 %."),
        (ERROR | {"at_most": 1}, "error 1.56 %, 0.56 points above the allowed 1 %."),
        (ERROR | {"at_most": 60}, "error 1.56 %, far below the allowed 60 %."),
        (ERROR | {"at_least": 1}, "error 1.56 %, 0.56 points above the required 1 %."),
        (ERROR | {"at_least": 3}, "error 1.56 %, 1.44 points below the required 3 %."),
        (ERROR | {"at_least": 0}, "error 1.56 %; 0 % or more would do."),
        (ERROR | {"at_most": 0}, "error 1.56 %; 0 % or less is needed."),
        (ERROR | {"at_most": 1.56}, "error 1.56 %; at most 1.56 % is allowed: too uncertain to tell."),
        (ERROR | {"at_least": 1.56}, "error 1.56 %; at least 1.56 % is needed: too uncertain to tell."),
        (ERROR | {"between": [1, 2]}, "error 1.56 %, within the allowed 1 to 2 %."),
        (ERROR | {"between": [2, 9]}, "error 1.56 %, 0.44 points below the required 2 %."),
        (ERROR | {"between": [0, 1]}, "error 1.56 %, 0.56 points above the allowed 1 %."),
        (ERROR | {"within": 0.5, "of": 1.5}, "error 1.56 %; 1.5, give or take 0.5, would do."),
        (ERROR | {"at_most": 1, "above": 1.5}, "error 1.56 %; up to 1 point above 1.5 would do."),
        (
            DIFFERENCE | {"at_most": 0.3},
            "error 1.56 %, 0.06 points above dense error; up to 0.3 points above would do.",
        ),
        (DIFFERENCE | {"at_most": 0.01}, "0.06 points above dense error; up to 0.01 points above is allowed."),
        (DIFFERENCE | {"at_most": 0}, "0.06 points above dense error; as much or less is needed."),
        (DIFFERENCE | {"at_most": -1}, "0.06 points above dense error; at least 1 point below is needed."),
        (DIFFERENCE | {"at_least": 0}, "0.06 points above dense error; as much or more would do."),
        (DIFFERENCE | {"at_least": 1}, "0.06 points above dense error; at least 1 point above is needed."),
        (DIFFERENCE | {"at_least": -1}, "0.06 points above dense error; up to 1 point below would do."),
        (DIFFERENCE | {"between": [0, 1]}, "0.06 points above dense error; 0 to 1 point above would do."),
        ({"key": A, "within": 0.5, "of": B}, "above dense error; up to 0.5 points either way would do."),
        ({"key": A, "within": 0.01, "of": B}, "above dense error; up to 0.01 points either way is allowed."),
        ({"key": B, "exceeds": A, "by": 0.5}, "0.06 points below error; at least 0.5 points above is needed."),
        ({"key": A, "exceeds": B, "by": 0.05}, "0.06 points above dense error; at least 0.05 points above would do."),
    ],
)
def test_each_form_of_rule_says_value_and_distance(rule, says):
    text = told(rule)
    assert text.startswith("Measured for LeNet-5: ") and text.endswith(says)


@pytest.mark.parametrize(
    ("values", "rule", "says"),
    [
        (record(6.86, 6.86, 6.86, unit="x", timing=True), {"at_most": 0.9}, "Timed for signs: latency ratio 6.86×, 7"),
        (record(19.5, unit="x", digits=1, exact=True), {"at_least": 15}, "ratio 19.5×, 4.5 above the required 15×."),
        (record(45, unit="x", digits=0, exact=True), {"at_least": 15}, "ratio 45×, 3.0 times the required 15×."),
        (record(0, unit="sums", digits=0, exact=True), {"at_most": 0}, "latency ratio 0 sums, just what is allowed."),
        (record(3, unit="", digits=0, exact=True), {"between": [3, 3]}, "ratio 3, exactly as it must be."),
        (record(1e-8, unit="", digits=8, exact=True), {"at_most": 1e-5}, "0.00000001, far below the allowed 0.00001."),
        (record(0.5, 0.6, unit="x", digits=1), {"at_most": 1}, "at most 1× is allowed: too few seeds to tell."),
    ],
)  # fmt: skip
def test_counts_times_and_few_seeds_are_told_apart(values, rule, says):
    assert says in told({"key": SPEED} | rule, **{SPEED.replace(".", "__"): values})


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("a.adam8.error_pct", ("Adam-8", "error")),
        ("a.nearest8.multiply_adds_ratio", ("nearest-8", "multiply-adds ratio")),
        ("a.int8.file_mb", ("int8", "file")),
        ("a.vgg16.conv1.fc1_kept_pct", ("VGG-16 conv1", "fc1 kept")),
        ("a.abc1.l1_ratio", ("ABC-Net, one base", "L1 ratio")),
        ("a.resnet50.float16_mb", ("ResNet-50", "float16")),
        ("a.cnn.weights3_error_pct", ("CNN", "three bases for weights error")),
    ],
)
def test_keys_are_told_in_words(key, says):
    assert telling.name(key) == says


def test_what_stands_beside_the_deciding_rule_is_counted():
    holds, fails, open_ = ERROR | {"at_most": 2}, ERROR | {"at_most": 1}, ERROR | {"at_most": 1.56}
    assert told(holds, holds).endswith("the allowed 2 %; the other rule holds.")
    assert told(holds, holds, holds).endswith("; both other rules hold.")
    assert told(holds, fails).endswith("above the allowed 1 %; the other rule holds.")
    assert told(fails, fails, holds, open_).endswith("; others: one holds, one fails, one open.")
    assert told(open_, holds).endswith("too uncertain to tell; the other rule holds.")


def test_one_failing_case_of_a_universal_is_told_first():
    holds, fails = ERROR | {"at_most": 2}, ERROR | {"at_most": 1}
    assert told(holds, fails, every=True).endswith("0.56 points above the allowed 1 %; the other rule holds.")


def test_a_difference_that_rounds_to_nothing_is_level():
    assert "level with dense error; up to" in told(
        DIFFERENCE | {"at_most": 1}, pruning__lenet5__dense_error_pct=record(*seeds(1.561))
    )


def test_another_profile_is_named_and_an_untestable_claim_gives_its_reason():
    one = claim(ERROR | {"at_most": 2})
    found = {"quick": {}, "standard": {A: record(*seeds(1.5))}}
    assert telling.told(one, "quick", found).startswith("Measured (standard profile) for LeNet-5: ")
    assert telling.told(one, "quick", {}) == "The quick profile does not measure it."
    raw = {"id": "C2.3-01", "section": "2.3", "says": "A.", "verdict": "not testable here", "because": "A name."}
    assert telling.told(claims.parsed(raw, "pruning", set()), "quick", {}) == "Not testable here: A name."


def test_every_sentence_of_the_book_is_short_and_has_few_numbers():
    results = {name: ledger.load_results(name, PROJECT) for name in ("quick", "standard")}
    count = 0
    for profile in results:
        for one in ledger.load_claims(PROJECT):
            if not judging.judgments(one, profile, results):
                continue
            text = telling.told(one, profile, results)
            numbers = re.findall(r"(?<![\w.,-])[−-]?\d[\d,.]*", re.sub(r"[A-Za-z]+-\d+(?:-\d+)?", "", text))
            assert len(text.split(" ")) <= 30 and len(numbers) <= 3, f"{one.id}: {text}"
            assert "_" not in text and "±" not in text, text
            count += 1
    assert count > 400
