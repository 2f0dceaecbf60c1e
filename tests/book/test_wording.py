"""Judgments in words."""

import pytest

from lib.book import wording
from lib.book.claims import SUPPORTED, Claim, Rule
from lib.book.judging import FAILS, HOLDS, SAMPLED, Finding, Judgment

K, OTHER = "pruning.net.error_pct", "pruning.net.baseline_error_pct"


def finding(rule: Rule, *values: float, outcome: str = HOLDS) -> Finding:
    return Finding(rule, values, "%", 2, SAMPLED, outcome)


@pytest.mark.parametrize(
    ("other", "quote", "text"),
    [
        (None, "", "pruning.net.error_pct"),
        (None, "`", "`pruning.net.error_pct`"),
        (OTHER, "`", "`pruning.net.error_pct` minus `pruning.net.baseline_error_pct`"),
        (2.0, "`", "`pruning.net.error_pct` minus 2"),
    ],
)
def test_a_quantity_is_a_key_or_a_difference(other, quote, text):
    assert wording.quantity(Rule(K, other, 0, 1, "between"), quote) == text


def test_a_difference_of_percentages_is_in_points():
    assert wording.measured(finding(Rule(K, None, 0, 1, "between"), 0.5)) == "0.50 %"
    assert wording.measured(finding(Rule(K, OTHER, 0, 1, "between"), 0.5)) == "0.50 points"


def test_a_contradiction_names_the_claim_both_verdicts_and_the_measurements():
    rules = (Rule(K, None, 0, 1, "between"), Rule(K, OTHER, 0, 1, "between"))
    claim = Claim("C2.3-01", "2.3", "pruning", "Pruning helps.", SUPPORTED, {"quick": rules})
    judgment = Judgment("quick", "supported in part", (finding(rules[0], 0.5), finding(rules[1], 3, outcome=FAILS)))
    assert wording.contradiction(claim, judgment) == (
        "claim C2.3-01 is held 'supported', but the quick profile gives 'supported in part':"
        " pruning.net.error_pct is 0.50 %, holds;"
        " pruning.net.error_pct minus pruning.net.baseline_error_pct is 3.00 points, fails"
    )
