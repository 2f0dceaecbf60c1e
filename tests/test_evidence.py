"""Recording: the text on the page, the values in the output's metadata, and what is refused."""

import math

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lib import evidence

KEY = "pruning.lenet300.kept_pct"
FINITE = st.floats(-1e9, 1e9)


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[nbformat.NotebookNode]:
    """The outputs that a cell would have got."""
    outputs: list[nbformat.NotebookNode] = []

    def display(data, *, raw, metadata):
        assert raw
        outputs.append(nbformat.v4.new_output("display_data", data, metadata=metadata))

    monkeypatch.setattr(evidence, "display", display)
    return outputs


def notebook(outputs: list[nbformat.NotebookNode], chapter: str | None = None) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_markdown_cell("text"), nbformat.v4.new_code_cell("code", outputs=outputs)]
    made = nbformat.v4.new_notebook(cells=cells)
    if chapter:
        made.metadata["survey"] = {"chapter": chapter}
    return made


@pytest.mark.parametrize(
    ("values", "unit", "digits", "text"),
    [
        (1.618, "%", 2, "1.62 %"),
        ([1.6, 1.62, 1.65], "%", 2, "1.62 ± 0.06 %"),
        ([1.6, 1.6, 1.6], "%", 1, "1.6 %"),
        ([1.62, 1.621, 1.622], "%", 1, "1.6 %"),
        ([1.62, 1.7], "%", 2, "1.62 and 1.70 %"),
        ([1.62, 1.621], "%", 2, "1.62 %"),
        ([-0.01, 0.01], "%", 1, "0.0 %"),
        (266_610, "", 0, "266,610"),
        ([1000, 3000], "bytes", 0, "1,000 and 3,000 bytes"),
        (41.34, "x", 1, "41.3×"),
        ([41, 41], "x", 1, "41.0×"),
        ([2.5, 0.75], "x", 1, "2.5 and 0.8×"),
        ([1000, 1000, 3001], "bytes", 0, "1,667 ± 2,870 bytes"),
        (-1.5, "%", 1, "−1.5 %"),
        (-0.001, "", 2, "0.00"),
        (1234.5, "ms", 1, "1234.5 ms"),
    ],
)
def test_the_text_is_the_values_or_their_mean_and_half_the_interval(displayed, values, unit, digits, text):
    assert evidence.record(KEY, values, unit=unit, digits=digits) == text


@pytest.mark.parametrize(
    ("values", "bounds", "text"),
    [
        ([0.1, 0.2, 0.9], (0, 100), "0.4 (0.0 to 1.5) %"),
        ([99.0, 99.5, 99.9], (0, 100), "99.5 (98.3 to 100.0) %"),
        ([20.0, 90.0, 90.0], (0, 100), "66.7 (0.0 to 100.0) %"),
        ([50.0, 51.0, 52.0], (0, 100), "51.0 ± 2.5 %"),
        ([0.1, 0.9], (0, 100), "0.1 and 0.9 %"),
        ([0.0, 0.0, 0.0], (0, 100), "0.0 %"),
        ([0.1, 0.2, 0.9], None, "0.4 ± 1.1 %"),
    ],
)
def test_an_interval_ends_at_the_bounds(values, bounds, text):
    assert evidence.formatted(values, unit="%", digits=1, bounds=bounds) == text


@pytest.mark.parametrize(
    ("metric", "unit", "text"),
    [
        ("error_pct", None, "0.40 (0.00 to 1.48) %"),
        ("top5_accuracy_pct", None, "0.40 (0.00 to 1.48) %"),
        ("recall_pct", None, "0.40 (0.00 to 1.48) %"),
        ("error_pct", "points", "0.40 ± 1.08 points"),  # a difference of errors
        ("error_drop_pct", None, "0.40 ± 1.08 %"),
        ("mirror_pct", None, "0.40 ± 1.08 %"),
    ],
)
def test_errors_accuracies_and_recalls_lie_between_0_and_100(displayed, metric, unit, text):
    assert evidence.record(f"pruning.lenet300.{metric}", [0.1, 0.2, 0.9], unit=unit, digits=2) == text


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("a.b.kept_pct", "12.35 %"),
        ("a.b.pct", "12.35 %"),
        ("a.b.gain_points", "12.35 points"),
        ("a.b.file_ratio", "12.3×"),
        ("a.b.file_bytes", "12 bytes"),
        ("a.b.bytes", "12 bytes"),
        ("a.le_net.ratio", "12.3×"),
        ("a.b.weights", "12"),
        ("a.b.gigabytes", "12"),
        ("a.pct_b.c", "12"),
    ],
)
def test_unit_and_digits_come_from_the_last_word_of_the_key(displayed, key, text):
    assert evidence.record(key, 12.345) == text
    assert displayed[0].metadata["survey"]["record"]["digits"] == len(text.split()[0].strip("×").partition(".")[2])


def test_unit_and_digits_may_be_given_each_alone(displayed):
    assert evidence.record(KEY, 12.345, digits=0) == "12 %"
    assert evidence.record(KEY, 12.345, unit="") == "12.35"
    assert evidence.record("a.b.file_ratio", 12.345, unit="ms") == "12.3 ms"


def test_a_recorder_puts_the_chapter_before_the_key(displayed):
    record = evidence.recorder("pruning")
    assert displayed == []
    assert record("lenet300.kept_pct", [8.0, 8.2], "%", 1, exact=True) == "8.0 and 8.2 %"
    assert record("lenet300.error_pct", 2.0) == "2.00 %"
    first, second = (output.metadata["survey"]["record"] for output in displayed)
    assert first == {"key": KEY, "values": [8.0, 8.2], "unit": "%", "digits": 1, "exact": True, "timing": False}
    assert second["key"] == "pruning.lenet300.error_pct" and second["exact"] is False


@pytest.mark.parametrize(
    ("key", "timing", "expected"),
    [
        ("a.b.latency_ratio", None, True),
        ("a.b.all_sparse_latency_ratio", None, True),
        ("a.b.epoch_seconds", None, True),
        ("a.b.forward_ms", None, True),
        ("a.b.training_s", None, True),
        ("a.b.bits", None, False),
        ("latency.b.error_pct", None, False),
        ("a.b.conv_ratio", True, True),
        ("a.b.latency_ratio", False, False),
    ],
)
def test_a_key_says_that_it_is_a_time_or_the_chapter_does(displayed, key, timing, expected):
    evidence.record(key, 1.0, timing=timing)
    assert displayed[0].metadata["survey"]["record"]["timing"] is expected
    assert evidence.harvest(notebook(displayed, key.split(".")[0]))["records"][key].get("timing", False) is expected


def test_a_time_is_not_exact(displayed):
    with pytest.raises(ValueError, match=r"'a\.b\.latency_ms' is said to be exact, and it is a time"):
        evidence.record("a.b.latency_ms", 1.0, exact=True)


def test_a_recorder_shows_the_line_on_the_data(displayed):
    evidence.recorder("pruning", Tiny)
    assert displayed[0].metadata["survey"]["data"]["name"] == "digits" and len(displayed) == 1


def test_a_notebook_shows_the_key_and_the_text(displayed):
    evidence.record(KEY, 8.0)
    assert displayed[0]["data"]["text/plain"] == f"{KEY}: 8.00 %"


def test_a_phrase_is_glued_shown_and_not_recorded(displayed):
    assert evidence.phrase("pruning.lenet300.direction", "falls") == "falls"
    data = displayed[0]["data"]
    assert data == {f"{evidence.GLUE}text/plain": "'falls'", "text/plain": "pruning.lenet300.direction: falls"}
    assert evidence.harvest(notebook(displayed, "pruning")) == {"records": {}, "data": []}


@pytest.mark.parametrize(("key", "text"), [("pruning.direction", "falls"), (KEY, ""), (KEY, " ")])
def test_a_phrase_without_words_or_key_is_refused(displayed, key, text):
    with pytest.raises(ValueError, match="a phrase needs a key"):
        evidence.phrase(key, text)
    assert displayed == []


def test_an_answer_is_a_sentence(monkeypatch):
    shown = []
    monkeypatch.setattr(evidence, "display", lambda one: shown.append(one.data))
    evidence.answer("Three of them are constant.")
    assert shown == ["**Answer.** Three of them are constant."]
    for text in ("", "7", "Three of them"):
        with pytest.raises(ValueError, match=f"^the answer is '{text}': a sentence that answers the exercise"):
            evidence.answer(text)
    assert len(shown) == 1


@given(st.lists(FINITE, min_size=2, max_size=8))
def test_the_interval_is_that_of_students_t(values):
    mean, half = evidence.interval(values)
    assert mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    expected = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    assert half == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(FINITE, st.integers(1, 9))
def test_equal_values_have_no_spread(value, n):
    assert evidence.interval([value] * n) == (value, 0.0)


@pytest.mark.parametrize(
    "values",
    [[1.5, 2.5], (1.5, 2.5), np.array([1.5, 2.5]), torch.tensor([1.5, 2.5]), [np.float64(1.5), torch.tensor(2.5)]],
)
def test_values_come_as_lists_arrays_or_tensors(displayed, values):
    evidence.record(KEY, values, unit="%", digits=1)
    form = {"key": KEY, "unit": "%", "digits": 1, "exact": False, "timing": False}
    assert displayed[0].metadata["survey"]["record"] == form | {"values": [1.5, 2.5]}


@pytest.mark.parametrize("values", [3, 3.0, np.int64(3), np.float32(3), torch.tensor(3.0)])
def test_one_value_may_come_alone(displayed, values):
    assert evidence.record(KEY, values, unit="ms", digits=0) == "3 ms"


def test_the_output_is_what_glue_reads_and_is_not_shown_in_place(displayed):
    from myst_nb.ext.glue import extract_glue_data_cell

    from lib.book.sphinx import executed

    text = evidence.record(KEY, [8.0, 8.2], unit="%", digits=1)
    made = executed.without_echo(notebook(displayed))
    cell = made.cells[1]
    ((key, output),) = extract_glue_data_cell(cell)
    assert key == KEY
    assert output["data"] == {"text/plain": repr(text)}
    assert cell.outputs == []


@pytest.mark.parametrize(
    "key",
    [
        "",
        "pruning",
        "pruning.kept",
        "Pruning.lenet.kept",
        "pruning.le net.kept",
        "pruning..kept",
        ".a.b.c",
        "a.b.c.",
        7,
    ],
)
def test_a_key_of_another_form_is_refused(displayed, key):
    with pytest.raises(ValueError, match=r"is not of the form chapter\.subject\.metric"):
        evidence.record(key, 1.0, unit="%", digits=1)
    assert displayed == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([], "has no values"),
        (np.array([]), "has no values"),
        (math.nan, "only finite numbers"),
        ([1.0, math.inf], "only finite numbers"),
        (torch.tensor([1.0, math.nan]), "only finite numbers"),
        ("12", "not a number"),
        ([1.0, "2"], "not a number"),
        ([True], "not a number"),
        ([None], "not a number"),
        ([[1.0, 2.0]], "not a number"),
        (1 + 2j, "not a number"),
        ({0: 1.5, 1: 1.7}, "{0: 1.5, 1: 1.7}, a dict: give a list"),
        ({1.5}, "a set: give a list"),
        ([1e200, -1e200, 0.0], r"holds 1e\+200: accepted are numbers from -1e150 to 1e150"),
        (10**400, "accepted are numbers from -1e150"),
    ],
)
def test_what_is_not_a_measurement_is_refused(displayed, values, says):
    with pytest.raises(ValueError, match=says):
        evidence.record(KEY, values, unit="%", digits=1)
    assert displayed == []


@pytest.mark.parametrize(("unit", "digits"), [(1, 1), ("a\nb", 1), ("%", -1), ("%", 1.5), ("%", True), ("%", 99)])
def test_a_wrong_unit_or_number_of_digits_is_refused(displayed, unit, digits):
    with pytest.raises(ValueError, match=r"^(the unit|digits is)"):
        evidence.record(KEY, 1.0, unit=unit, digits=digits)
    assert displayed == []


class Tiny:
    name, source = "digits", "scikit-learn's digits"
    train, validation, test = range(1078), range(269), range(450)


def test_the_data_of_a_chapter_are_shown_in_one_line(displayed):
    evidence.uses(Tiny)
    text = displayed[0]["data"]["text/markdown"]
    assert text == ("Data: **digits**, 1,078 training, 269 validation and 450 test samples (scikit-learn's digits).")


def test_harvest_returns_the_records_and_the_data(displayed):
    evidence.record(KEY, [8.0, 8.2], unit="%", digits=1)
    evidence.record("pruning.lenet300.weights", 266_610, unit="", digits=0)
    evidence.uses(Tiny)
    evidence.uses(Tiny)
    displayed.append(nbformat.v4.new_output("stream", text="printed"))
    assert evidence.harvest(notebook(displayed, "pruning")) == {
        "records": {
            KEY: {"values": [8.0, 8.2], "unit": "%", "digits": 1},
            "pruning.lenet300.weights": {"values": [266_610.0], "unit": "", "digits": 0},
        },
        "data": [{"name": "digits", "source": "scikit-learn's digits", "train": 1078, "validation": 269, "test": 450}],
    }
    assert evidence.harvest(notebook(displayed), "pruning") == evidence.harvest(notebook(displayed, "pruning"))


def test_harvest_survives_writing_and_reading_the_notebook(displayed):
    evidence.record(KEY, [8.0, 8.2], unit="%", digits=1)
    made = notebook(displayed, "pruning")
    again = nbformat.reads(nbformat.writes(made), as_version=4)
    assert evidence.harvest(again) == evidence.harvest(made)


def test_a_key_recorded_twice_is_refused(displayed):
    for value in (1.0, 2.0):
        evidence.record(KEY, value, unit="%", digits=1)
    with pytest.raises(ValueError, match=rf"the key '{KEY}' is recorded twice"):
        evidence.harvest(notebook(displayed, "pruning"))


def test_a_key_of_another_chapter_is_refused(displayed):
    evidence.record(KEY, 1.0, unit="%", digits=1)
    with pytest.raises(ValueError, match=r"the chapter 'quantization' records 'pruning\.lenet300\.kept_pct'"):
        evidence.harvest(notebook(displayed, "quantization"))


@pytest.mark.parametrize(("chapter", "accepted"), [("pruning_speed", True), ("pruningspeed", False), ("speed", False)])
def test_a_key_may_begin_with_the_leading_words_of_the_chapter(displayed, chapter, accepted):
    evidence.record(KEY, 1.0, unit="%", digits=1)
    if accepted:
        assert evidence.harvest(notebook(displayed, chapter))["records"].keys() == {KEY}
    else:
        with pytest.raises(ValueError, match="its keys begin with"):
            evidence.harvest(notebook(displayed, chapter))


def test_a_notebook_of_no_chapter_is_refused(displayed):
    with pytest.raises(ValueError, match="does not say which chapter it is"):
        evidence.harvest(notebook(displayed))
