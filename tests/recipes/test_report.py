"""The report says what the costs say."""

from types import SimpleNamespace

import pytest

from lib.recipes import report
from lib.recipes.costs import Costs

BEFORE = Costs(
    error_pct=2.0,
    validation_error_pct=3.0,
    file_bytes=8000,
    multiply_adds=4_000_000,
    activation_bytes=2000,
    latency_ms=4.0,
)
AFTER = Costs(
    error_pct=2.5,
    validation_error_pct=3.5,
    file_bytes=1000,
    multiply_adds=2_000_000,
    activation_bytes=2000,
    latency_ms=5.0,
)
RESULT = SimpleNamespace(costs={"as given": BEFORE, "shrunk": AFTER})


def test_the_summary_names_gain_time_and_error():
    text = "The file is 8.0 times smaller and one image takes 1.25 times as long, with 0.50 points more test error than"
    assert report.summary(RESULT) == f"{text} the network as given."


def test_the_summary_holds_the_error_against_the_fair_rival():
    rival = Costs(4.0, 4.0, 8000, 4_000_000, 2000, 4.0)
    said = report.summary(SimpleNamespace(costs={"as given": BEFORE, "trained on": rival, "shrunk": AFTER}))
    assert said.endswith("with 1.50 points less test error than the unchanged network trained as long.")


@pytest.mark.parametrize(("error", "says"), [(2.0, "no more test error"), (1.0, "1.00 points less test error")])
def test_the_error_is_said_as_it_moved(error, says):
    after = Costs(error, error, 1, 1, 1, 1.0)
    assert report.summary(SimpleNamespace(costs={"as given": BEFORE, "shrunk": after})).endswith(
        f"{says} than the network as given."
    )


def test_the_page_has_a_row_for_each_network():
    lines = report.markdown(RESULT, "Mine", ["A note."]).splitlines()
    assert lines[0] == "# Mine" and lines[-1] == "- A note."
    assert "| as given | 2.00 | 3.00 | 8.0 | 4.00 | 2.0 | 4.00 |" in lines
    assert "| shrunk | 2.50 | 3.50 | 1.0 | 2.00 | 2.0 | 5.00 |" in lines


def test_the_figure_shows_each_cost(tmp_path):
    report.draw(RESULT, tmp_path / "costs.svg")
    text = (tmp_path / "costs.svg").read_text()
    assert text.count("%") >= 4 and "<svg" in text
