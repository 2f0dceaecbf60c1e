"""Figures and tables carry what the page needs, and come out the same each time."""

from xml.etree import ElementTree

import matplotlib
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from lib import evidence, figures
from lib.coding import gaps
from lib.pruning.magnitude import PrunedWeight

ALT = "The error stays level down to a tenth of the weights."


def drawn():
    figure, ax = figures.axes()
    figures.line(ax, [1, 2, 4], [[1.0, 2.0], [3.0, 3.0], [2.0, 5.0]], figures.PRUNING, "pruned")
    ax.legend()
    return figure


@pytest.fixture(autouse=True)
def shell():
    """What a figure is shown to: without a shell, display prints."""
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def shown(call):
    with capture_output() as captured:
        call()
    (output,) = captured.outputs
    return output


def test_a_figure_is_one_svg_with_its_alternative_text_name_and_caption():
    output = shown(lambda: figures.show(drawn(), alt=ALT, name="fig-x", caption="Error over the density kept"))
    assert ElementTree.fromstring(output.data["image/svg+xml"]).tag.endswith("svg")
    assert output.data["text/plain"] == ALT
    expected = {"alt": ALT, "name": "fig-x", "caption": "Error over the density kept"}
    assert output.metadata["survey"]["figure"] == expected


def test_the_same_figure_and_table_are_the_same_bytes():
    def once():
        figure = shown(lambda: figures.show(drawn(), alt=ALT, name="fig-x", caption=ALT)).data
        return figure, shown(lambda: figures.table([{"a": "1", "b": "x"}], caption="A table of two")).data

    assert once() == once()


def test_tables_of_one_page_differ_in_their_identity():
    one, two = (shown(lambda c=c: figures.table([{"a": 1}], caption=c)).data["text/html"] for c in ("one", "two"))
    assert one.replace("one", "two") != two


@pytest.mark.parametrize("text", ["", "error", "Error over density", "   "])
def test_text_that_states_no_finding_is_refused_and_nothing_is_shown(text):
    for words in ({"alt": text, "caption": ALT}, {"alt": ALT, "caption": text}):
        with (
            capture_output() as captured,
            pytest.raises(ValueError, match="a sentence that states the finding is needed"),
        ):
            figures.show(drawn(), name="fig-x", **words)
        assert not captured.outputs


def test_a_line_runs_through_the_means_with_the_interval_as_bars():
    _, ax = figures.axes()
    runs = [[1.0, 2.0], [3.0, 3.0], [2.0, 5.0]]
    figures.line(ax, [1, 2, 4], runs, figures.PRUNING, "pruned")
    (container,) = ax.containers
    assert container.lines[0].get_ydata().tolist() == [1.5, 3.0, 3.5]
    halves = [(s[1][1] - s[0][1]) / 2 for s in container.lines[2][0].get_segments()]
    assert halves == pytest.approx([evidence.interval(values)[1] for values in runs])


def test_single_runs_have_no_bars():
    _, ax = figures.axes()
    figures.line(ax, [1, 2], [[1], [2]], figures.DENSE, "dense")
    assert not ax.containers[0].has_yerr


def test_things_are_told_apart_by_color_marker_and_line():
    looks = [
        figures.DENSE,
        figures.PRUNING,
        figures.RETRAINED,
        figures.QUANTIZATION,
        figures.COMBINED,
        figures.REPORTED,
    ]
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == len(looks)


def test_the_style_ends_with_its_block():
    before = dict(matplotlib.rcParams)
    figures.axes(2)
    with figures.style():
        assert matplotlib.rcParams["axes.spines.top"] is False
    assert dict(matplotlib.rcParams) == before


def test_a_row_of_axes():
    _, row = figures.axes(3, sharey=True)
    assert len(row) == 3


def test_shown_source_is_the_code_that_runs():
    text = shown(lambda: figures.show_source(PrunedWeight, gaps.positions)).data["text/markdown"]
    assert text.startswith("```python\nclass PrunedWeight(") and text.endswith("\n```")
    assert "return np.cumsum(np.asarray(fields, dtype=np.int64) + 1) - 1" in text
    compile(text.removeprefix("```python\n").removesuffix("```"), "shown", "exec")


def test_a_table_has_a_caption_a_head_and_rows_without_index():
    html = shown(
        lambda: figures.table([{"layer": "fc1", "kept": "8 %"}, {"layer": "fc2", "kept": "9 %"}], caption="Kept")
    ).data
    text = html["text/html"]
    assert "<caption>Kept</caption>" in text and text.count("<th ") == 2 and text.count("<td ") == 4
