"""Rules and verdicts: each is seen to flip when its measurements do."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from small_ledger import OTHER, TWO, K, claim, record, write_ledger

from lib.book import judging, ledger
from lib.book.claims import CONTRADICTED, IN_PART, SUPPORTED, UNDECIDED
from lib.book.judging import FAILS, HOLDS, STRADDLES
from lib.evidence import interval

VALUE = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
VALUES = st.lists(VALUE, min_size=1, max_size=5)


def outcome_of(tmp_path: Path, rule: dict, records: dict) -> str:
    root = write_ledger(tmp_path, [claim(decided_by={"quick": [rule]})])
    (one,) = ledger.load_claims(root)
    return judging.judge(one, "quick", records).findings[0].outcome


# --- rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "holds", "fails", "straddles"),
    [
        ({"at_least": 10}, [11, 11.1, 11.2], [9, 9.1, 9.2], [9.9, 10, 10.1]),
        ({"at_most": 10}, [9, 9.1, 9.2], [11, 11.1, 11.2], [9.9, 10, 10.1]),
        ({"between": [10, 20]}, [14, 15, 16], [30, 30.1, 30.2], [19.9, 20, 20.1]),
        ({"between": [10, 20]}, [11, 11.1, 11.2], [5, 5.1, 5.2], [9.9, 10, 10.1]),
        ({"between": [10, 10.1]}, [10.05, 10.05, 10.05], [11, 11.1, 11.2], [8, 10, 12]),
        ({"within": 0.5, "of": 10}, [10.1, 10.2, 10.3], [12, 12.1, 12.2], [10.4, 10.5, 10.6]),
        ({"within": 0.5, "of": 10}, [9.7, 9.8, 9.9], [7, 7.1, 7.2], [9.4, 9.5, 9.6]),
        ({"exceeds": 10, "by": 2}, [13, 13.1, 13.2], [11, 11.1, 11.2], [11.9, 12, 12.1]),
        ({"at_least": 2, "above": 10}, [13, 13.1, 13.2], [11, 11.1, 11.2], [11.9, 12, 12.1]),
        ({"at_most": 2, "above": 10}, [11, 11.1, 11.2], [13, 13.1, 13.2], [11.9, 12, 12.1]),
        ({"between": [1, 2], "above": 10}, [11.4, 11.5, 11.6], [14, 14.1, 14.2], [11.9, 12, 12.1]),
    ],
)
def test_each_rule_flips_with_its_values(tmp_path, rule, holds, fails, straddles):
    for values, expected in ((holds, HOLDS), (fails, FAILS), (straddles, STRADDLES)):
        assert outcome_of(tmp_path, {"key": K, **rule}, {K: record(*values)}) == expected
        if expected != STRADDLES:
            assert outcome_of(tmp_path, {"key": K, **rule}, {K: record(values[1])}) == expected


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ({"at_least": 0.1}, 0.1),
        ({"at_most": 0.1}, 0.1),
        ({"between": [0.1, 0.2]}, 0.2),
        ({"at_most": 0.1, "above": 1.6}, 1.7),  # 1.7 - 1.6 is a little more than 0.1 in floating point
        ({"within": 0.1, "of": 1.7}, 1.6),
        ({"exceeds": 1.6, "by": 0.1}, 1.7),
    ],
)
@pytest.mark.parametrize("n", [1, 3])
def test_a_bound_touched_exactly_holds(tmp_path, rule, value, n):
    assert outcome_of(tmp_path, {"key": K, **rule}, {K: record(*[value] * n)}) == HOLDS


@given(VALUES, VALUE)
def test_at_least_and_at_most_are_opposite(values, bound):
    mean, half = interval(values)
    assume(min(abs(mean - half - bound), abs(mean + half - bound)) > 1e-3)
    least, most = judging.outcome(values, bound, float("inf")), judging.outcome(values, float("-inf"), bound)
    assert {least, most} in ({HOLDS, FAILS}, {STRADDLES})
    assert (least == HOLDS) == (mean - half > bound)
    assert (most == HOLDS) == (mean + half < bound)


@given(VALUE, VALUE)
def test_a_single_value_never_straddles(value, bound):
    assert judging.outcome([value], bound, float("inf")) == (HOLDS if value >= bound else FAILS)


@given(VALUES, VALUE, st.floats(0, 1e5), st.floats(0, 1e5))
def test_a_wider_band_never_turns_against_a_rule(values, low, width, more):
    rank = {FAILS: 0, STRADDLES: 1, HOLDS: 2}
    narrow = judging.outcome(values, low, low + width)
    assert rank[judging.outcome(values, low - more, low + width + more)] >= rank[narrow]


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ({"key": K, "at_most": 0.1, "above": OTHER}, True),
        ({"key": K, "at_least": 0.04, "above": OTHER}, True),
        ({"key": K, "between": [0.04, 0.06], "above": OTHER}, True),
        ({"key": K, "within": 0.1, "of": OTHER}, True),
        ({"key": K, "exceeds": OTHER, "by": 0.04}, True),
        ({"key": K, "exceeds": OTHER, "by": 0.06}, False),
    ],
)
def test_differences_are_paired_by_seed(tmp_path, rule, holds):
    records = {K: record(1.05, 9.05, 5.05), OTHER: record(1.0, 9.0, 5.0)}  # far apart, and yet always 0.05 above
    assert outcome_of(tmp_path, rule, records) == (HOLDS if holds else FAILS)
    unpaired = {K: record(1.05, 9.05, 5.05), OTHER: record(9.0, 5.0, 1.0)}
    assert outcome_of(tmp_path, rule, unpaired) == STRADDLES


def test_a_single_value_is_subtracted_as_a_constant(tmp_path):
    rule = {"key": K, "at_most": 0.1, "above": OTHER}
    assert outcome_of(tmp_path, rule, {K: record(1.0, 1.01, 1.02), OTHER: record(1.0)}) == HOLDS
    assert outcome_of(tmp_path, rule, {K: record(1.0), OTHER: record(1.0, 1.01, 1.02)}) == HOLDS
    assert outcome_of(tmp_path, rule, {K: record(1.5), OTHER: record(1.0, 1.01, 1.02)}) == FAILS


def test_seeds_that_cannot_be_paired_are_an_error(tmp_path):
    rule = {"key": K, "at_most": 0.1, "above": OTHER}
    with pytest.raises(ValueError, match=r"C2\.3-01: pruning\.net\.error_pct has 3 values and .* has 2"):
        outcome_of(tmp_path, rule, {K: record(1, 2, 3), OTHER: record(1, 2)})


def test_a_key_that_no_chapter_records_is_an_error(tmp_path):
    for rule in ({"key": K, "at_most": 1}, {"key": OTHER, "at_most": 1, "above": K}):
        with pytest.raises(
            ValueError, match=r"C2\.3-01: its rule for the quick profile names 'pruning\.net\.error_pct'"
        ):
            outcome_of(tmp_path, rule, {OTHER: record(1.0)})


# --- verdicts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([HOLDS], SUPPORTED),
        ([HOLDS, HOLDS], SUPPORTED),
        ([FAILS], CONTRADICTED),
        ([FAILS, FAILS], CONTRADICTED),
        ([HOLDS, FAILS], IN_PART),
        ([HOLDS, FAILS, STRADDLES], IN_PART),
        ([STRADDLES], UNDECIDED),
        ([HOLDS, STRADDLES], UNDECIDED),
        ([FAILS, STRADDLES], UNDECIDED),
    ],
)
def test_outcomes_make_a_verdict(outcomes, verdict):
    assert judging.combined(outcomes) == judging.combined(reversed(outcomes)) == verdict


@given(st.lists(st.sampled_from([HOLDS, FAILS, STRADDLES]), min_size=1, max_size=4))
def test_a_verdict_stands_whichever_way_the_undecided_rules_would_fall(outcomes):
    verdict = judging.combined(outcomes)
    possible = {
        judging.combined([way if outcome == STRADDLES else outcome for outcome in outcomes]) for way in (HOLDS, FAILS)
    }
    assert possible == {verdict} if verdict != UNDECIDED else len(possible) > 1


def test_a_claim_of_another_profile_is_not_measured_here(tmp_path):
    root = write_ledger(tmp_path, [claim(decided_by={"standard": TWO[:1]})])
    (one,) = ledger.load_claims(root)
    with pytest.raises(
        ValueError, match=r"the profile of a rule of claim C2\.3-01 must be one of standard, not 'quick'"
    ):
        judging.judge(one, "quick", {})
    results = {"quick": {}, "standard": {K: record(1.0)}}
    judged = judging.judgments(one, "quick", results)
    assert [(judgment.profile, judgment.verdict) for judgment in judged] == [("standard", SUPPORTED)]
    assert judging.shown(one, judged, "quick") == judging.NOT_MEASURED
    assert judging.tally([one], "standard", results) == {SUPPORTED: 1}


@pytest.mark.parametrize(
    ("held", "elsewhere", "measured", "contradicted"),
    [
        (SUPPORTED, [], SUPPORTED, False),
        (SUPPORTED, [], CONTRADICTED, True),
        (SUPPORTED, [], UNDECIDED, False),
        (UNDECIDED, [], CONTRADICTED, False),
        (SUPPORTED, [IN_PART], IN_PART, False),
        (SUPPORTED, [IN_PART], CONTRADICTED, True),
    ],
)
def test_only_a_decided_verdict_that_is_not_held_contradicts(tmp_path, held, elsewhere, measured, contradicted):
    rules = {"quick": [{"key": K, "at_most": 2}, {"key": "pruning.net.latency_ratio", "at_least": 1}]}
    more = {"elsewhere": elsewhere} if elsewhere else {}
    (one,) = ledger.load_claims(write_ledger(tmp_path, [claim(decided_by=rules, verdict=held, **more)]))
    assert judging.contradicts(judging.Judgment("quick", measured, ()), one) == contradicted
