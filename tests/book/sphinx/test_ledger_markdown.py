"""The words of the ledger's cards."""

import pytest

from lib.book import claims, judging
from lib.book.sphinx import ledger_markdown as markdown

KNOWN = {"han2016deep"}
RECORDS = {
    "pruning.lenet5.error_pct": {"values": [1.0, 2.0, 3.0], "unit": "%", "digits": 1},
    "pruning.lenet5.dense_error_pct": {"values": [1.0, 2.0, 3.0], "unit": "%", "digits": 1},
}


def claim(verdict: str = "supported", **rules: dict) -> claims.Claim:
    decided_by = {profile: [rule] for profile, rule in rules.items()}
    raw = {"id": "C2.3-01", "section": "2.3", "says": "A sentence.", "verdict": verdict, "decided_by": decided_by}
    return claims.parsed(raw, "pruning", KNOWN)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"key": "pruning.lenet300.removed_pct", "at_least": 1}, "LeNet-300-100, removed"),
        ({"key": "a.some_kind.file_ratio", "at_least": 1, "above": 3}, "some kind, file ratio minus 3"),
        (
            {"key": "a.lenet5.error_pct", "at_most": 1, "above": "a.lenet5.dense_error_pct"},
            "LeNet-5, error minus dense error",
        ),
        ({"key": "a.one.error_pct", "at_most": 1, "above": "a.two.error_pct"}, "one, error minus two, error"),
    ],
)
def test_a_rule_is_about_a_quantity_in_words(rule, says):
    assert markdown.subject(claim(quick=rule).rules["quick"][0]) == says


@pytest.mark.parametrize(
    ("quick", "standard", "says"),
    [
        (2, 5, "This run is inconclusive; the standard run supports the claim."),
        (2, 2, "This run and the standard run are inconclusive; the ledger holds it *supported*."),
        (2, None, "This run is inconclusive; the ledger holds it *supported*."),
        (-1, 5, "This run contradicts the claim; the standard run supports the claim."),
        (9, 5, None),
    ],
)
def test_a_run_that_differs_from_the_ledger_says_so_in_plain_words(quick, standard, says):
    rules = {"quick": quick} | ({"standard": standard} if standard else {})
    rules = {profile: {"key": "pruning.lenet5.error_pct", "at_most": bound} for profile, bound in rules.items()}
    card = markdown.card(claim(**rules), "quick", dict.fromkeys(rules, RECORDS))
    assert (says in card) if says else ("This run" not in card)


def test_a_rule_that_changed_is_told_beside_the_verdict():
    rule = {"key": "pruning.lenet5.error_pct", "at_most": 5}
    raw = {"id": "C2.3-01", "section": "2.3", "says": "A sentence.", "verdict": "supported"}
    raw |= {"decided_by": {"quick": [rule]}, "changed": "The bound was 4, after {cite:t}`han2016deep`."}
    details = markdown.details(claims.parsed(raw, "pruning", KNOWN), "quick", {"quick": RECORDS})
    assert details["Changed"] == ["The bound was 4, after {cite:t}`han2016deep`."]
    assert "Changed" not in markdown.details(claim(quick=rule), "quick", {"quick": RECORDS})


def test_rules_show_keys_bound_measurement_and_outcome():
    rule = {"key": "pruning.lenet5.error_pct", "at_most": 1, "above": "pruning.lenet5.dense_error_pct"}
    given = (claim(quick=rule), "quick", {"quick": RECORDS})
    assert markdown.card(*given) == ""
    keys = "<code>pruning.lenet5.error_pct</code> minus <code>pruning.lenet5.dense_error_pct</code>"
    ((profile, (line,)),) = markdown.details(*given).items()
    assert profile == "Quick profile"
    assert line.startswith(f"{keys}, at most 1 point: 0.0") and line.endswith(", ✓ holds.")
    assert "against" in line


def test_the_fold_of_a_card_names_what_is_in_it():
    terms = ["Quick profile", "Fragile", "Fashion-MNIST", "Erratum", "Changed"]
    assert markdown.hidden(terms, 2) == "2 rules, near a bound, other data, erratum, rule changed"
    assert markdown.hidden(["Erratum"], 0) == "erratum"
    assert markdown.hidden(["Quick profile"], 1) == "1 rule"


def test_a_card_says_which_of_its_rules_is_near_its_bound():
    details = markdown.details(claim(standard=AT_MOST), "standard", {"standard": NARROW})
    assert details["Fragile"] == ["LeNet-5, error: the interval ends 0.21 of its half-width from the bound."]
    assert "Fragile" not in markdown.details(claim(standard=AT_MOST), "quick", {"standard": NARROW})


def test_rules_that_profiles_share_are_shown_once():
    rule = {"key": "pruning.lenet5.error_pct", "at_most": 3}
    results = {"quick": RECORDS, "standard": NARROW}
    shown = markdown.details(claim(quick=rule, standard=rule), "quick", results)
    (line,) = shown["Quick and standard profiles"]
    assert line.startswith("<code>pruning.lenet5.error_pct</code>, at most 3 %: quick 2.0") and "; standard 2.1" in line
    shown = markdown.details(claim(quick=rule, standard=AT_MOST), "quick", results)
    assert [term for term in shown if "profile" in term] == ["Quick profile", "Standard profile"]


NARROW = {"pruning.lenet5.error_pct": {"values": [2.0, 2.1, 2.2], "unit": "%", "digits": 1}}
AT_MOST = {"key": "pruning.lenet5.error_pct", "at_most": 2.4}


def test_the_ledger_says_how_many_rules_chance_could_have_turned():
    one = claim(standard=AT_MOST)
    decided = judging.sampled([one] * 40, "standard", {"standard": NARROW})
    assert "Seeds decide 40 rules of this profile" in markdown.chance(decided)
    assert "about 2 rules would be decided by chance" in markdown.chance(decided)


def test_a_rule_near_its_bound_is_listed():
    decided = judging.sampled([claim(standard=AT_MOST)], "standard", {"standard": NARROW})  # 2.1 ± 0.25 and 2.4
    (line,) = markdown.fragile(decided)
    assert line.startswith("{verdict}`C2.3-01`: LeNet-5, error is 2.1") and "lie 0.21 halves of its width" in line
    far = {"pruning.lenet5.error_pct": NARROW["pruning.lenet5.error_pct"] | {"values": [1.0, 1.1, 1.2]}}
    assert markdown.fragile(judging.sampled([claim(standard=AT_MOST)], "standard", {"standard": far})) == []


def test_what_other_data_say_stands_on_the_card_and_on_the_page():
    other = {"pruning.lenet5.error_pct": NARROW["pruning.lenet5.error_pct"] | {"values": [9.0, 9.1, 9.2]}}
    one = claim(standard=AT_MOST)
    results = {"standard": NARROW, "fashion": other}
    (line,) = markdown.details(one, "standard", results)["Fashion-MNIST"]
    assert line.startswith("*contradicted* by the same rules (LeNet-5, error: 9.1")
    said, others, lines = markdown.second_opinion([one], results)
    assert said.endswith("the rules of 1 claim were judged again: 0 keep their verdict, and 1 turns into the opposite.")
    assert others == 1 and lines == ["*supported*, and *contradicted* there: {ref}`C2.3-01 <claim-c2.3-01>`"]
    assert markdown.second_opinion([one], {"standard": NARROW}) is None
    same = results | {"fashion": NARROW}
    assert markdown.second_opinion([one], same)[1:] == (0, [])
    assert markdown.second_opinion([one], same)[0].endswith("1 keeps its verdict, and none turns into the opposite.")
    assert markdown.details(one, "standard", same)["Fashion-MNIST"] == ["*supported* by the same rules."]


def test_a_definition_and_another_profile_are_told():
    raw = {"id": "C2.3-01", "section": "2.3", "says": "A sentence.", "verdict": "supported", "kind": "by definition"}
    raw |= {"decided_by": {"quick": [AT_MOST], "standard": [AT_MOST]}, "otherwise": {"quick": "undecided"}}
    one = claims.parsed(raw, "pruning", KNOWN)
    assert markdown.badge(one, "standard", {"standard": NARROW}) == ("supported", "≡ supported by definition")
    details = markdown.details(one, "standard", {"standard": NARROW})
    assert details["Profiles"] == ["The quick profile gives *undecided*."]
