"""What a claim may be: everything else is one clear error."""

import pytest
from small_ledger import BYTES, OTHER, K, claim, write_ledger

from lib.book import claims, judging, ledger
from lib.book.claims import IN_PART, SUPPORTED


def rules(*rows: dict) -> dict:
    """The field of a claim that these rules decide."""
    return {"decided_by": {"quick": list(rows)}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": "C2.3-1"}, r"must have the form C2\.3-NN, like C2\.3-07, not '"),
        ({"id": "C2.4-01"}, r"must have the form C2\.3-NN, like C2\.3-07, not '"),
        ({"id": "c2.3-01"}, r"must have the form C2\.3-NN, like C2\.3-07, not '"),
        ({"id": "T1-03"}, r"must have the form C2\.3-NN, like C2\.3-07, not '"),
        ({"id": "T1-3", "section": "4"}, r"must have the form C4-NN or T1-NN, like C4-07, not 'T1-3'"),
        ({"section": "7"}, "its section must be, in quotes, one of .*, not '7'"),
        ({"section": 2.3}, r"its section must be, in quotes, one of .*, not 2\.3"),
        ({"says": " "}, "its 'says' must be a sentence, not ' '"),
        ({"erratum": 3}, "its 'erratum' must be a sentence, not 3"),
        ({"changed": ""}, "its 'changed' must be a sentence, not ''"),
        ({"verdict": "true"}, "its verdict must be one of .*, not 'true'"),
        ({"decidedby": {}}, "a field must be one of .*, not 'decidedby'"),
        ({"decided_by": None}, "the verdict 'supported' needs 'decided_by'"),
        ({"decided_by": None, "verdict": "supported in part"}, "'supported in part' needs 'decided_by'"),
        ({"decided_by": None, "verdict": "contradicted"}, "'contradicted' needs 'decided_by'"),
        ({"decided_by": {}}, "the verdict 'supported' needs 'decided_by'"),
        ({"decided_by": [{"key": K, "at_most": 1}]}, "'decided_by' must be {profile: "),
        (
            {"decided_by": {"fast": [{"key": K, "at_most": 1}]}},
            "a profile must be one of quick, standard, full, not 'fast'",
        ),
        ({"decided_by": {"quick": []}}, "the rules of the quick profile must be a list of at least one"),
        ({"verdict": "not testable here"}, "must have 'because' and no 'decided_by'"),
        ({"verdict": "not testable here", "because": "Opinion."}, "must have 'because' and no 'decided_by'"),
        ({"verdict": "not testable here", "decided_by": None}, "must have 'because' and no 'decided_by'"),
        ({"kind": "historical"}, "the verdict of a historical claim must be 'not testable here'"),
        ({"kind": "old"}, "its kind must be one of historical, by definition, time, or left out, not 'old'"),
        ({"every": "all"}, "'every' must be true or left out, not 'all'"),
        ({"every": False}, "'every' must be true or left out, not False"),
        ({"otherwise": {"quick": SUPPORTED}}, "'otherwise' must be {profile: verdict}, of quick and contradicted, "),
        ({"otherwise": {"full": IN_PART}}, "'otherwise' must be {profile: verdict}, of quick and contradicted, "),
        ({"otherwise": {}}, "'otherwise' must be {profile: verdict}"),
        ({"elsewhere": "contradicted"}, "'elsewhere' must be a list of .*, not 'contradicted'"),
        ({"elsewhere": []}, r"'elsewhere' must be a list of .*, not \[\]"),
        ({"elsewhere": [SUPPORTED]}, "must be a list of contradicted, supported in part, undecided"),
        ({"reported": {"value": 9, "source": "nobody1900"}}, "the source 'nobody1900' is not in"),
        ({"reported": {"number": 9}}, "'reported' must be a mapping of source, unit, value, where, with a value"),
        ({"erratum": "See {cite:t}`known2020, nobody1900`."}, "the source 'nobody1900' is not in"),
        ({"changed": "As in {cite:t}`nobody1900`."}, "the source 'nobody1900' is not in"),
        (rules({"key": K, "at_last": 1}), "must be a mapping with 'key' and one of"),
        (rules({"key": K}), "must be a mapping with 'key' and one of"),
        (rules({"key": K, "at_least": 1, "at_most": 2}), "must be a mapping with 'key' and one of"),
        (rules({"at_least": 1}), "must be a mapping with 'key' and one of"),
        (rules("error below 2"), "must be a mapping with 'key' and one of"),
        (rules({"key": K, "at_least": 1, "of": OTHER}), "must be made of"),
        (rules({"key": K, "within": 1}), "must be made of"),
        (rules({"key": K, "within": 1, "of": OTHER, "above": OTHER}), "must be made of"),
        (rules({"key": K, "exceeds": OTHER}), "must be made of"),
        (rules({"key": "error", "at_most": 1}), "must have the form chapter.subject.metric, not 'error'"),
        (
            rules({"key": K, "at_most": 1, "above": "baseline"}),
            "must have the form chapter.subject.metric, not 'baseline'",
        ),
        (rules({"key": K, "at_most": "1"}), "a bound must be a finite number, not '1'"),
        (rules({"key": K, "at_most": True}), "a bound must be a finite number, not True"),
        (rules({"key": K, "at_most": float("nan")}), "a bound must be a finite number, not nan"),
        (rules({"key": K, "between": [1]}), "'between' must be two bounds"),
        (rules({"key": K, "between": [2, 1]}), "no value can satisfy"),
        (rules({"key": K, "within": -1, "of": OTHER}), "no value can satisfy"),
    ],
)
def test_a_wrong_claim_is_one_clear_error(tmp_path, changes, says):
    root = write_ledger(tmp_path, [claim(**changes)])
    with pytest.raises(ValueError, match=says) as caught:
        ledger.load_claims(root)
    assert "\n" not in str(caught.value)


def test_the_optional_fields_are_read(tmp_path):
    about = {"kind": "time", "every": True, "elsewhere": [IN_PART], "otherwise": {"quick": "undecided"}}
    (one,) = ledger.load_claims(write_ledger(tmp_path, [claim(**about)]))
    assert (one.kind, one.every, one.elsewhere, one.otherwise) == ("time", True, (IN_PART,), {"quick": "undecided"})


def test_a_historical_claim_is_read_with_its_erratum(tmp_path):
    about = {"verdict": "not testable here", "because": "A name.", "erratum": "It is {cite:t}`known2020`."}
    root = write_ledger(tmp_path, [claim(**about, kind="historical", decided_by=None)])
    (one,) = ledger.load_claims(root)
    assert (one.kind, one.erratum) == ("historical", "It is {cite:t}`known2020`.")
    assert judging.shown(one, [], "quick") == claims.NOT_TESTABLE


def test_a_claim_names_the_measurements_that_decide_it(tmp_path):
    root = write_ledger(
        tmp_path, [claim(**rules({"key": K, "at_most": 1, "above": OTHER}, {"key": BYTES, "at_most": 1}))]
    )
    (read,) = ledger.load_claims(root)
    assert read.keys("quick") == {K, OTHER, BYTES} and read.keys("standard") == set()


def test_cited_keys_are_found_in_markdown():
    text = "{cite:t}`a2020, b2020` and {cite}`c2020` but not `d2020` nor {ref}`e2020`."
    assert claims.cited(text) == ["a2020", "b2020", "c2020"]


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        ("Pruning helps.", "Pruning helps."),
        ("Pruning\n  helps (here, LeNet-5).", "Pruning helps."),
        ("It helps (here: for f(x) and g(x)), always. It is C4-17.", "It helps, always. It is C4-17."),
        ("It is fast (Table 1; here, by the clock).", "It is fast (Table 1)."),
        ("It is fast (Table 1). Here, by the clock.", "It is fast (Table 1)."),
        (
            "Where it helps there is hereditary gain (hereafter G).",
            "Where it helps there is hereditary gain (hereafter G).",
        ),
        ("It helps (here, without an end", "It helps"),
    ],
)
def test_the_sentence_of_the_survey_is_without_what_this_book_adds(tmp_path, says, sentence):
    (one,) = ledger.load_claims(write_ledger(tmp_path, [claim(says=says)]))
    assert one.sentence == sentence
