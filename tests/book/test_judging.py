"""Rules and verdicts: each is seen to flip when its measurements do."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from small_ledger import BYTES, OTHER, TWO, K, claim, record, write_ledger

from lib.book import judging, ledger
from lib.book.claims import BY_DEFINITION, CONTRADICTED, IN_PART, SUPPORTED, TIME, UNDECIDED
from lib.book.judging import EXACT, FAILS, HOLDS, SAMPLED, STRADDLES, TIMED, TOO_FEW, Finding
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
            assert outcome_of(tmp_path, {"key": K, **rule}, {K: record(values[1], exact=True)}) == expected
            assert outcome_of(tmp_path, {"key": K, **rule}, {K: record(*values[:2])}) == TOO_FEW


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
    assert outcome_of(tmp_path, {"key": K, **rule}, {K: record(*[value] * n, exact=n == 1)}) == HOLDS


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


def test_a_single_exact_value_is_subtracted_as_a_constant(tmp_path):
    rule = {"key": K, "at_most": 0.1, "above": OTHER}
    assert outcome_of(tmp_path, rule, {K: record(1.0, 1.01, 1.02), OTHER: record(1.0, exact=True)}) == HOLDS
    assert outcome_of(tmp_path, rule, {K: record(1.0, exact=True), OTHER: record(1.0, 1.01, 1.02)}) == HOLDS
    assert outcome_of(tmp_path, rule, {K: record(1.5, exact=True), OTHER: record(1.0, 1.01, 1.02)}) == FAILS
    assert outcome_of(tmp_path, rule, {K: record(1.0, 1.01, 1.02), OTHER: record(1.0)}) == TOO_FEW


def test_a_time_is_a_median_and_decides_alone(tmp_path):
    rule = {"key": K, "at_most": 2}
    assert outcome_of(tmp_path, rule, {K: record(1.0, timing=True)}) == HOLDS
    assert outcome_of(tmp_path, rule | {"above": OTHER}, {K: record(4.0, timing=True), OTHER: record(1.0)}) == FAILS


@pytest.mark.parametrize(
    ("rule", "values", "margin"),
    [
        ({"at_least": 0.2}, [2, 3, 4], 0.127),
        ({"at_most": 10}, [2, 3, 4], 1.818),
        ({"at_most": 0}, [2, 3, 4], 0.208),
        ({"at_least": 3}, [2, 3, 4], -1),
        ({"between": [0, 6]}, [2, 3, 4], 0.208),
        ({"at_least": 1}, [2, 2, 2], float("inf")),
        ({"at_least": 3}, [2, 2, 2], float("inf")),
    ],
)
def test_the_margin_is_the_distance_in_halves_of_the_interval(tmp_path, rule, values, margin):
    root = write_ledger(tmp_path, [claim(decided_by={"quick": [{"key": K, **rule}]})])
    found = judging.judge(ledger.load_claims(root)[0], "quick", {K: record(*values)}).findings[0]
    assert found.margin == pytest.approx(margin, abs=1e-3) and (margin < 0) == (found.outcome == STRADDLES)


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
        ([TOO_FEW], UNDECIDED),
        ([HOLDS, TOO_FEW], UNDECIDED),
    ],
)
def test_outcomes_make_a_verdict(outcomes, verdict):
    assert judging.combined(outcomes) == judging.combined(reversed(outcomes)) == verdict
    of_every = CONTRADICTED if FAILS in outcomes else verdict
    assert judging.combined(outcomes, every=True) == of_every


@given(st.lists(st.sampled_from([HOLDS, FAILS, STRADDLES, TOO_FEW]), min_size=1, max_size=4), st.booleans())
def test_a_verdict_stands_whichever_way_the_undecided_rules_would_fall(outcomes, every):
    verdict = judging.combined(outcomes, every=every)
    possible = {
        judging.combined([way if outcome in (STRADDLES, TOO_FEW) else outcome for outcome in outcomes], every=every)
        for way in (HOLDS, FAILS)
    }
    assert possible == {verdict} if verdict != UNDECIDED else len(possible) > 1


@pytest.mark.parametrize(
    ("kinds", "about", "says"),
    [
        ([SAMPLED], {}, None),
        ([SAMPLED, EXACT], {}, None),
        ([SAMPLED, TIMED], {}, None),
        ([EXACT], {"kind": BY_DEFINITION}, None),
        ([TIMED], {"kind": TIME}, None),
        ([TIMED, EXACT], {"every": True}, None),
        ([EXACT, EXACT], {}, "only exact quantities decide it, which cannot come out otherwise: say kind: by def"),
        ([EXACT, SAMPLED], {"kind": BY_DEFINITION}, "a measurement decides it, not a definition"),
        ([TIMED], {}, "only times decide it: add a rule about something else, or say kind: time"),
        ([SAMPLED], {"kind": TIME}, "no time decides it: leave its kind out"),
        (
            [TIMED, EXACT],
            {},
            "a constant and a time decide it together, which could soften the verdict: make two claims of it",
        ),
        (
            [SAMPLED],
            {"elsewhere": [IN_PART]},
            "no time decides it, so processors change its verdict only by chance",
        ),
    ],
)
def test_the_kinds_of_measurements_must_fit_the_claim(tmp_path, kinds, about, says):
    rules = {"standard": [{"key": K, "at_most": 2}]}
    (one,) = ledger.load_claims(write_ledger(tmp_path, [claim(decided_by=rules, **about)]))
    findings = tuple(Finding(one.rules["standard"][0], (1.0,), "%", 2, kind, HOLDS) for kind in kinds)
    found = judging.mixed(one, judging.Judgment("standard", SUPPORTED, findings))
    assert (found is None) == (says is None)
    assert says is None or says in found


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ({}, {}, SAMPLED),
        ({"exact": True}, {}, SAMPLED),
        ({"exact": True}, {"exact": True}, EXACT),
        ({"timing": True}, {}, TIMED),
    ],
)
def test_a_difference_is_of_the_kind_of_what_can_change_it(tmp_path, first, second, kind):
    root = write_ledger(tmp_path, [claim(decided_by={"quick": [{"key": K, "at_most": 2, "above": OTHER}]})])
    records = {K: record(1, 2, 3, **first), OTHER: record(1, 2, 3, **second)}
    assert judging.judge(ledger.load_claims(root)[0], "quick", records).findings[0].kind == kind


def test_definitions_are_counted_apart(tmp_path):
    rules, exact = {"standard": [{"key": K, "at_most": 2}]}, record(1, exact=True)
    written = [claim(decided_by=rules), claim(id="C2.3-02", decided_by=rules, kind=BY_DEFINITION)]
    claims = ledger.load_claims(write_ledger(tmp_path, written))
    assert judging.tally(claims, "standard", {"standard": {K: exact}}) == {SUPPORTED: 1, BY_DEFINITION: 1}
    assert judging.tally(claims, "quick", {"quick": {}, "standard": {K: exact}}) == {judging.NOT_MEASURED: 2}


def test_rules_that_seeds_decide_are_listed_the_most_fragile_first(tmp_path):
    ids = ("C2.3-01", "C2.3-02", "C2.3-03", "C2.3-04")
    keys = (K, OTHER, BYTES, "pruning.net.other_pct")
    written = [claim(id=id, decided_by={"quick": [{"key": k, "at_most": 2}]}) for id, k in zip(ids, keys, strict=True)]
    claims = ledger.load_claims(write_ledger(tmp_path, written))
    records = {K: record(1, 1.1, 1.2), OTHER: record(1.7, 1.8, 1.7), BYTES: record(1, exact=True)}
    records |= {"pruning.net.other_pct": record(1, 2, 3)}  # it straddles
    found = judging.sampled(claims, "quick", {"quick": records})
    assert [one.id for one, _ in found] == ["C2.3-02", "C2.3-01"]


def test_a_claim_of_another_profile_is_not_measured_here(tmp_path):
    root = write_ledger(tmp_path, [claim(decided_by={"standard": TWO[:1]})])
    (one,) = ledger.load_claims(root)
    with pytest.raises(ValueError, match=r"the claim C2\.3-01 has rules for these profiles: standard; not for 'quick'"):
        judging.judge(one, "quick", {})
    results = {"quick": {}, "standard": {K: record(1.0, 1.0, 1.0)}}
    judged = judging.judgments(one, "quick", results)
    assert [(judgment.profile, judgment.verdict) for judgment in judged] == [("standard", SUPPORTED)]
    assert judging.shown(one, judged, "quick") == judging.NOT_MEASURED
    assert judging.tally([one], "standard", results) == {SUPPORTED: 1}


@pytest.mark.parametrize(
    ("profile", "held", "about", "measured", "contradicted"),
    [
        ("standard", SUPPORTED, {}, SUPPORTED, False),
        ("standard", SUPPORTED, {}, CONTRADICTED, True),
        ("standard", SUPPORTED, {}, UNDECIDED, True),
        ("standard", UNDECIDED, {}, CONTRADICTED, True),
        ("standard", SUPPORTED, {"elsewhere": [IN_PART]}, IN_PART, False),
        ("standard", SUPPORTED, {"elsewhere": [IN_PART]}, CONTRADICTED, True),
        ("quick", SUPPORTED, {}, UNDECIDED, False),
        ("quick", UNDECIDED, {}, CONTRADICTED, True),
        ("quick", UNDECIDED, {"otherwise": {"quick": CONTRADICTED}}, CONTRADICTED, False),
        ("quick", UNDECIDED, {"otherwise": {"quick": CONTRADICTED}}, UNDECIDED, True),
    ],
)
def test_another_verdict_than_the_held_one_contradicts(tmp_path, profile, held, about, measured, contradicted):
    rules = {name: [{"key": K, "at_most": 2}] for name in ("quick", "standard")}
    (one,) = ledger.load_claims(write_ledger(tmp_path, [claim(decided_by=rules, verdict=held, **about)]))
    assert judging.contradicts(judging.Judgment(profile, measured, ()), one) == contradicted


@pytest.mark.parametrize(
    ("committed", "here", "verdict", "flips"),
    [
        ([1, 1.1, 1.2], [0.5, 1, 1.9], UNDECIDED, False),  # the interval of a run that agrees crosses the bound
        ([1, 1.1, 1.2], [3, 3.1, 3.2], CONTRADICTED, True),
        ([1, 1.1, 1.2], [1.1, 1.2, 1.3], SUPPORTED, False),
        ([0.5, 1, 1.9], [0.5, 1, 1.9], UNDECIDED, True),  # the committed records do not give the held verdict
        (None, [0.5, 1, 1.9], UNDECIDED, True),
    ],
)
def test_a_verdict_flips_where_a_rule_holds_and_then_fails(tmp_path, committed, here, verdict, flips):
    rules = {"standard": [{"key": K, "at_most": 2}]}
    (one,) = ledger.load_claims(write_ledger(tmp_path, [claim(decided_by=rules)]))
    now = judging.judge(one, "standard", {K: record(*here)})
    then = committed and judging.judge(one, "standard", {K: record(*committed)})
    assert now.verdict == verdict and judging.flips(now, one, then or None) == flips


def test_the_published_rules_judge_again_on_other_data(tmp_path):
    rules = {"standard": [{"key": K, "at_most": 2}]}
    written = [claim(decided_by=rules), claim(id="C2.3-02", decided_by=rules, kind=BY_DEFINITION)]
    one, definition = ledger.load_claims(write_ledger(tmp_path, written))
    assert judging.again(one, {K: record(3, 3.1, 3.2)}).verdict == CONTRADICTED
    assert judging.again(one, {K: record(1, exact=True)}) is None  # no seed decides it
    assert judging.again(one, {}) is None and judging.again(definition, {K: record(1, 1.1, 1.2)}) is None
