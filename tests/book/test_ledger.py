"""Claims, rules, verdicts and the gate: each rule and each verdict is seen to flip when its inputs do."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from lib.book import ledger
from lib.book.ledger import CONTRADICTED, FAILS, HOLDS, IN_PART, STRADDLES, SUPPORTED, UNDECIDED
from lib.evidence import interval

K, OTHER = "pruning.net.error_pct", "pruning.net.baseline_error_pct"
BYTES, LATENCY = "pruning.net.file_bytes", "pruning.net.latency_ms"
VALUE = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
VALUES = st.lists(VALUE, min_size=1, max_size=5)
BIB = "@article{known2020,\n  title = {A}\n}\n"


def claim(**changes) -> dict:
    made = {
        "id": "C2.3-01",
        "section": "2.3",
        "says": "Pruning helps.",
        "decided_by": {"quick": [{"key": K, "at_most": 2}]},
        "verdict": "supported",
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def record(*values: float, unit: str = "%") -> dict:
    return {"values": list(values), "unit": unit, "digits": 2}


def write_book(root: Path, claims: list, results: dict[str, dict] | None = None) -> Path:
    (root / "survey" / "claims").mkdir(parents=True, exist_ok=True)
    (root / "survey" / "references.bib").write_text(BIB)
    (root / "survey" / "claims" / "pruning.yml").write_text(yaml.safe_dump(claims))
    for profile, records in (results or {}).items():  # as committed, and as built
        for folder in (root / "results", root / "_build" / "results"):
            path = folder / profile / "pruning.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"chapter": "pruning", "profile": profile, "data": [], "records": records}))
    return root


def outcome_of(tmp_path: Path, rule: dict, records: dict) -> str:
    root = write_book(tmp_path, [claim(decided_by={"quick": [rule]})])
    (one,) = ledger.load_claims(root)
    return ledger.judge(one, "quick", records).findings[0].outcome


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
    least, most = ledger.outcome(values, bound, float("inf")), ledger.outcome(values, float("-inf"), bound)
    assert {least, most} in ({HOLDS, FAILS}, {STRADDLES})
    assert (least == HOLDS) == (mean - half > bound)
    assert (most == HOLDS) == (mean + half < bound)


@given(VALUE, VALUE)
def test_a_single_value_never_straddles(value, bound):
    assert ledger.outcome([value], bound, float("inf")) == (HOLDS if value >= bound else FAILS)


@given(VALUES, VALUE, st.floats(0, 1e5), st.floats(0, 1e5))
def test_a_wider_band_never_turns_against_a_rule(values, low, width, more):
    rank = {FAILS: 0, STRADDLES: 1, HOLDS: 2}
    narrow = ledger.outcome(values, low, low + width)
    assert rank[ledger.outcome(values, low - more, low + width + more)] >= rank[narrow]


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
    assert ledger.combined(outcomes) == ledger.combined(reversed(outcomes)) == verdict


@given(st.lists(st.sampled_from([HOLDS, FAILS, STRADDLES]), min_size=1, max_size=4))
def test_a_verdict_stands_whichever_way_the_undecided_rules_would_fall(outcomes):
    verdict = ledger.combined(outcomes)
    possible = {
        ledger.combined([way if outcome == STRADDLES else outcome for outcome in outcomes]) for way in (HOLDS, FAILS)
    }
    assert possible == {verdict} if verdict != UNDECIDED else len(possible) > 1


TWO = [{"key": K, "at_most": 2}, {"key": BYTES, "at_most": 100}]


@pytest.mark.parametrize(
    ("error", "size", "verdict"),
    [
        ([1, 1.1, 1.2], [90], SUPPORTED),
        ([3, 3.1, 3.2], [90], IN_PART),
        ([3, 3.1, 3.2], [110], CONTRADICTED),
        ([1.9, 2, 2.1], [90], UNDECIDED),
    ],
)
def test_the_measurements_flip_the_verdict_and_the_gate(tmp_path, error, size, verdict):
    records = {K: record(*error), BYTES: record(*size, unit="bytes")}
    for held in (SUPPORTED, IN_PART, CONTRADICTED, UNDECIDED):
        root = write_book(
            tmp_path,
            [claim(decided_by={"quick": TWO, "standard": TWO}, verdict=held)],
            {"quick": records, "standard": {K: record(1.0), BYTES: record(90.0)} if held == SUPPORTED else records},
        )
        (one,) = ledger.load_claims(root)
        assert ledger.judge(one, "quick", ledger.load_results("quick", root)).verdict == verdict
        judged, failures = ledger.gate(root, "quick")
        assert judged == {"quick build": 1, "standard records": 1}
        agree = held == verdict or UNDECIDED in (held, verdict)
        assert (failures == []) == agree
        if not agree:
            assert f"claim C2.3-01 is held '{held}', but the quick profile gives '{verdict}'" in failures[0]
            assert "pruning.net.error_pct is" in failures[0]


def test_the_committed_standard_results_are_held_against_the_ledger_too(tmp_path):
    rules = {"quick": TWO[:1], "standard": TWO[:1]}
    root = write_book(tmp_path, [claim(decided_by=rules)], {"quick": {K: record(1.0)}, "standard": {K: record(9.0)}})
    judged, (failure,) = ledger.gate(root, "quick")
    assert judged == {"quick build": 1, "standard records": 1}
    assert "the standard profile gives 'contradicted'" in failure


TIMED = [{"key": BYTES, "at_most": 100}, {"key": "pruning.net.latency_ratio", "at_least": 1}]


def test_a_verdict_may_depend_on_the_processor_where_a_time_decides(tmp_path):
    def failures(ratio: float, **more: object) -> list[str]:
        records = {BYTES: record(90.0, unit="bytes"), "pruning.net.latency_ratio": record(ratio, unit="x")}
        rules = {"quick": TIMED, "standard": TIMED}
        root = write_book(tmp_path, [claim(decided_by=rules, **more)], {"quick": records, "standard": records})
        return ledger.gate(root, "quick")[1]

    assert failures(2.0) == [] and len(failures(0.5)) == 2
    assert failures(2.0, elsewhere=[IN_PART]) == failures(0.5, elsewhere=[IN_PART]) == []
    assert len(failures(0.5, elsewhere=[UNDECIDED])) == 2


def test_a_claim_of_another_profile_is_not_measured_here(tmp_path):
    root = write_book(tmp_path, [claim(decided_by={"standard": TWO[:1]})])
    (one,) = ledger.load_claims(root)
    assert ledger.judge(one, "quick", {}) is None
    results = {"quick": {}, "standard": {K: record(1.0)}}
    found = ledger.judgements(one, "quick", results)
    assert [(j.profile, j.verdict) for j in found] == [("standard", SUPPORTED)]
    assert ledger.shown(one, found, "quick") == ledger.NOT_MEASURED
    assert ledger.tally([one], "standard", results) == {SUPPORTED: 1}


# --- the gate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "results", "says"),
    [
        (
            [claim(verdict="not testable here", because="Opinion.", decided_by=None)],
            {},
            "the quick build hold no record: run `make book PROFILE=quick`",
        ),
        (
            [claim(verdict="not testable here", because="Opinion.", decided_by=None)],
            {"quick": {K: record(1.0)}, "standard": {K: record(1.0)}},
            "no verdict was judged in quick build or standard records",
        ),
        (
            [claim(decided_by={"full": TWO[:1]})],
            {"quick": {K: record(1.0)}},
            "the standard records hold no record: run `make record PROFILE=standard`",
        ),
        ([claim()], {"quick": {OTHER: record(1.0)}, "standard": {K: record(1.0)}}, "which no chapter records there"),
        ([], {"quick": {K: record(1.0)}}, "there is no claim"),
        ([claim(), claim()], {"quick": {K: record(1.0)}}, "stands in the ledger twice"),
    ],
)
def test_the_gate_fails(tmp_path, claims, results, says):
    _, failures = ledger.gate(write_book(tmp_path, claims, results), "quick")
    assert any(says in failure for failure in failures)


def test_the_gate_refuses_an_unknown_profile(tmp_path):
    root = write_book(tmp_path, [claim()], {"standard": {K: record(1.0)}})
    _, failures = ledger.gate(root, "fast")
    assert "the profile 'fast' is unknown: accepted are quick, standard, full" in failures


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"records": {"a.b.c": {"values": [], "unit": "", "digits": 0}}}', '{"records": {"a.b.c": 3}}',
     '{"records": {"a.b.c": {"values": [NaN], "unit": "", "digits": 0}}}'],
)  # fmt: skip
def test_damaged_results_are_one_clear_error(tmp_path, text):
    path = write_book(tmp_path, [claim()], {"quick": {K: record(1.0)}}) / "results" / "quick" / "pruning.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"pruning\.json of the quick profile is damaged"):
        ledger.load_results("quick", tmp_path)


def test_a_key_in_two_chapters_results_is_an_error(tmp_path):
    root = write_book(tmp_path, [claim()], {"quick": {K: record(1.0)}})
    path = root / "results" / "quick" / "pruning.json"
    path.with_name("other.json").write_text(path.read_text())
    with pytest.raises(ValueError, match=r"'pruning\.net\.error_pct' is recorded twice in the quick profile"):
        ledger.load_results("quick", root)


# --- what a claim may be -----------------------------------------------------------------------------------------


def rules(*found: dict) -> dict:
    return {"decided_by": {"quick": list(found)}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": "C2.3-1"}, r"has the form C2\.3-NN"),
        ({"id": "C2.4-01"}, r"has the form C2\.3-NN"),
        ({"id": "c2.3-01"}, r"has the form C2\.3-NN"),
        ({"id": "T1-03"}, r"has the form C2\.3-NN"),
        ({"id": "T1-3", "section": "4"}, r"has the form C4-NN or T1-NN"),
        ({"section": "7"}, "its section is '7'"),
        ({"section": 2.3}, r"its section is 2\.3"),
        ({"says": " "}, "its 'says' is ' '"),
        ({"erratum": 3}, "its 'erratum' is 3"),
        ({"verdict": "true"}, "the verdict 'true' is unknown"),
        ({"decidedby": {}}, "the field 'decidedby' is unknown"),
        ({"decided_by": None}, "the verdict 'supported' needs 'decided_by'"),
        ({"decided_by": None, "verdict": "supported in part"}, "'supported in part' needs 'decided_by'"),
        ({"decided_by": None, "verdict": "contradicted"}, "'contradicted' needs 'decided_by'"),
        ({"decided_by": {}}, "the verdict 'supported' needs 'decided_by'"),
        ({"decided_by": [{"key": K, "at_most": 1}]}, "a list of rules for each profile is needed"),
        ({"decided_by": {"fast": [{"key": K, "at_most": 1}]}}, "the profile 'fast' is unknown"),
        ({"decided_by": {"quick": []}}, "at least one is needed"),
        ({"verdict": "not testable here"}, "says 'because' and has no 'decided_by'"),
        ({"verdict": "not testable here", "because": "Opinion."}, "says 'because' and has no 'decided_by'"),
        ({"verdict": "not testable here", "decided_by": None}, "says 'because' and has no 'decided_by'"),
        ({"kind": "historical"}, "a historical claim is 'not testable here'"),
        ({"kind": "old"}, "the kind 'old' is unknown"),
        ({"elsewhere": [IN_PART]}, "no time decides it, so its verdict is the same on every processor"),
        ({"elsewhere": "contradicted"}, "'elsewhere' is 'contradicted', accepted is a list of"),
        ({"elsewhere": []}, r"'elsewhere' is \[\], accepted is a list of"),
        ({"elsewhere": [SUPPORTED]}, "accepted is a list of contradicted, supported in part, undecided"),
        ({"reported": {"value": 9, "source": "nobody1900"}}, "the source 'nobody1900' is not in"),
        ({"reported": {"number": 9}}, "'reported' is"),
        ({"erratum": "See {cite:t}`known2020, nobody1900`."}, "the source 'nobody1900' is not in"),
        (rules({"key": K, "at_last": 1}), "exactly one of"),
        (rules({"key": K}), "exactly one of"),
        (rules({"key": K, "at_least": 1, "at_most": 2}), "exactly one of"),
        (rules({"at_least": 1}), "needs 'key'"),
        (rules("error below 2"), "needs 'key'"),
        (rules({"key": K, "at_least": 1, "of": OTHER}), "has other parts than"),
        (rules({"key": K, "within": 1}), "has other parts than"),
        (rules({"key": K, "within": 1, "of": OTHER, "above": OTHER}), "has other parts than"),
        (rules({"key": K, "exceeds": OTHER}), "has other parts than"),
        (rules({"key": "error", "at_most": 1}), "the rule's key 'error' is not of the form"),
        (rules({"key": K, "at_most": 1, "above": "baseline"}), "the rule's key 'baseline' is not of the form"),
        (rules({"key": K, "at_most": "1"}), "the bound '1'"),
        (rules({"key": K, "at_most": True}), "the bound True"),
        (rules({"key": K, "at_most": float("nan")}), "the bound nan"),
        (rules({"key": K, "between": [1]}), "needs two bounds"),
        (rules({"key": K, "between": [2, 1]}), "no value can satisfy"),
        (rules({"key": K, "within": -1, "of": OTHER}), "no value can satisfy"),
        (rules({"key": LATENCY, "at_most": 1}), "only timing decides it"),
        (rules({"key": "pruning.net.latency_ratio", "at_least": 1}), "only timing decides it"),
        (rules({"key": "pruning.net.training_s", "at_most": 1}), "only timing decides it"),
        (rules({"key": "pruning.kernel.product_ratio", "at_least": 1}), "only timing decides it"),
    ],
)
def test_a_wrong_claim_is_one_clear_error(tmp_path, changes, says):
    root = write_book(tmp_path, [claim(**changes)])
    with pytest.raises(ValueError, match=says) as caught:
        ledger.load_claims(root)
    assert "\n" not in str(caught.value)


def test_timing_may_stand_beside_another_measurement(tmp_path):
    root = write_book(tmp_path, [claim(**rules({"key": LATENCY, "at_most": 1}, {"key": BYTES, "at_most": 1}))])
    assert len(ledger.load_claims(root)[0].rules["quick"]) == 2


def test_a_metric_that_only_sounds_like_timing_is_none(tmp_path):
    root = write_book(tmp_path, [claim(**rules({"key": "pruning.net.bits", "at_most": 1}))])
    assert not ledger.load_claims(root)[0].rules["quick"][0].timing


def test_a_historical_claim_stands_with_its_erratum(tmp_path):
    about = {"verdict": "not testable here", "because": "A name.", "erratum": "It is {cite:t}`known2020`."}
    root = write_book(tmp_path, [claim(**about, kind="historical", decided_by=None)])
    (one,) = ledger.load_claims(root)
    assert (one.kind, one.erratum) == ("historical", "It is {cite:t}`known2020`.")
    assert ledger.shown(one, [], "quick") == "not testable here"


@pytest.mark.parametrize(("text", "says"), [("- id: [", "not readable YAML"), ("id: C2.3-01", "a list of claims")])
def test_an_unreadable_file_of_claims_is_one_clear_error(tmp_path, text, says):
    root = write_book(tmp_path, [])
    (root / "survey" / "claims" / "pruning.yml").write_text(text)
    with pytest.raises(ValueError, match=says):
        ledger.load_claims(root)


def test_a_claim_cannot_run_code(tmp_path):
    root = write_book(tmp_path, [])
    trap = tmp_path / "trap"
    text = f"- !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{trap}']]"
    (root / "survey" / "claims" / "pruning.yml").write_text(text)
    with pytest.raises(ValueError, match="not readable YAML"):
        ledger.load_claims(root)
    assert not trap.exists()


# --- the catalogue -----------------------------------------------------------------------------------------------

ROW = {
    "id": "a", "name": "A", "section": "2.3", "idea": "I.", "source": ["known2020"], "file": "f", "test": "t",
    "chapter": "pruning", "anchor": "sec-a", "claims": ["C2.3-01"],
}  # fmt: skip


def write_catalogue(root: Path, rows: list[dict], others: dict) -> Path:
    write_book(root, [claim()])
    (root / "survey" / "techniques.yml").write_text(yaml.safe_dump({"here": rows, "not_yet_here": others}))
    return root


def test_a_right_catalogue_is_read(tmp_path):
    assert ledger.load_techniques(write_catalogue(tmp_path, [ROW], {"2.4": ["b"]}))["here"] == [ROW]


@pytest.mark.parametrize(
    ("row", "others", "says"),
    [
        (ROW | {"source": ["nobody1900"]}, {}, "the technique 'a' cites 'nobody1900'"),
        (ROW | {"claims": ["C2.3-99"]}, {}, r"the technique 'a' names the claim 'C2\.3-99'"),
        ({k: v for k, v in ROW.items() if k != "idea"}, {}, "the technique 'a' has the fields"),
        (ROW, {"2.4": ["a"]}, "'a' stands in the catalogue twice"),
        (ROW, {"9": ["b"]}, "the catalogue names section '9'"),
    ],
)
def test_a_wrong_catalogue_is_one_clear_error(tmp_path, row, others, says):
    with pytest.raises(ValueError, match=says):
        ledger.load_techniques(write_catalogue(tmp_path, [row], others))
