"""Lines with their spread, and figures that carry what the page needs and come out the same each time."""

from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lib import evidence, figures
from lib.figures import drawing

ALT = "The error stays level down to a tenth of the weights."
RUNS = [[1.0, 2.0, 3.0], [3.0, 3.0, 3.0], [2.0, 5.0, 6.0]]


def drawn() -> Figure:
    figure, ax = figures.axes()
    figures.line(ax, [1, 2, 4], RUNS, figures.PRUNING, "pruned")
    ax.legend()
    return figure


def bars(ax):
    """The ends of the intervals of the only line, (low, high) for each point."""
    (container,) = ax.containers
    return [tuple(segment[:, 1]) for segment in container.lines[2][0].get_segments()]


def test_a_figure_is_one_svg_with_its_alternative_text_name_and_caption(shown):
    (output,) = shown(lambda: figures.show(drawn(), alt=ALT, name="fig-x", caption="Error over the density kept"))
    assert ElementTree.fromstring(output.data["image/svg+xml"]).tag.endswith("svg")
    assert output.data["text/plain"] == ALT
    expected = {"alt": ALT, "name": "fig-x", "caption": "Error over the density kept"}
    assert output.metadata["survey"]["figure"] == expected


def test_the_same_figure_is_the_same_bytes(shown):
    def once():
        (output,) = shown(lambda: figures.show(drawn(), alt=ALT, name="fig-x", caption=ALT, finding=ALT))
        return output.data

    assert once() == once()


@pytest.mark.parametrize(
    ("which", "text"),
    [(which, text) for which in ("alt", "caption", "finding") for text in ("error", "Error over density", "   ")]
    + [("alt", ""), ("caption", "")],
)
def test_text_that_states_no_finding_is_refused_and_nothing_is_shown(shown, which, text):
    figure = drawn()

    def refused():
        with pytest.raises(ValueError, match=f"^{which} of figure 'fig-x' is '{text}': a sentence that states"):
            figures.show(figure, **{"alt": ALT, "caption": ALT, "name": "fig-x"} | {which: text})

    assert shown(refused) == []
    assert figure.get_suptitle() == ""


def test_a_finding_is_the_title_and_fits_in_the_figure(shown):
    figure = drawn()
    finding = "Magnitude pruning removes many more weights where the network may be retrained afterwards."
    (output,) = shown(lambda: figures.show(figure, alt=ALT, name="fig-x", caption=ALT, finding=finding))
    assert figure.get_suptitle().split() == finding.split() and "\n" in figure.get_suptitle()
    FigureCanvasAgg(figure).draw()
    (title,) = figure.texts
    extent = title.get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width and extent.y1 <= figure.bbox.height
    assert "lead" not in output.metadata["survey"]["figure"]


def test_the_figure_of_a_chapter_is_marked(shown):
    (output,) = shown(lambda: figures.show(drawn(), alt=ALT, name="fig-x", caption=ALT, lead=True))
    assert output.metadata["survey"]["figure"]["lead"] is True


def test_a_line_runs_through_the_means_with_the_interval_as_bars():
    _, ax = figures.axes()
    figures.line(ax, [1, 2, 4], RUNS, figures.PRUNING, "pruned")
    assert ax.containers[0].lines[0].get_ydata() == pytest.approx([2.0, 3.0, 13 / 3])
    halves = [(high - low) / 2 for low, high in bars(ax)]
    assert halves == pytest.approx([evidence.interval(values)[1] for values in RUNS])


def test_intervals_end_at_the_bounds():
    _, ax = figures.axes()
    runs = [[0.1, 0.2, 0.9], [98.0, 99.5, 99.9], [50.0, 51.0, 52.0]]
    figures.line(ax, [1, 2, 3], runs, figures.PRUNING, "pruned", bounds=figures.PERCENT)
    (low, one), (two, high), inside = bars(ax)
    assert (low, high) == pytest.approx((0, 100))
    for end, values, sign in ((one, runs[0], 1), (two, runs[1], -1), (inside[0], runs[2], -1)):
        mean, half = evidence.interval(values)
        assert end == pytest.approx(mean + sign * half)


def test_two_seeds_are_dots_beside_the_line_without_bars():
    _, ax = figures.axes()
    figures.line(ax, [1, 2], [[1.0, 2.0], [3.0, 5.0]], figures.PRUNING, "pruned")
    line, dots = ax.lines
    assert line.get_ydata().tolist() == [1.5, 4.0] and not ax.containers[0].has_yerr
    assert dots.get_xdata().tolist() == [1, 1, 2, 2] and dots.get_ydata().tolist() == [1.0, 2.0, 3.0, 5.0]
    assert dots.get_linestyle() == "None" and dots.get_color() == figures.PRUNING["color"]
    assert ax.get_legend_handles_labels()[1] == ["pruned"]


def test_single_runs_are_a_line_alone():
    _, ax = figures.axes()
    figures.line(ax, [1, 2], [[1], [2]], figures.DENSE, "dense")
    assert not ax.containers[0].has_yerr and len(ax.lines) == 1


def test_points_of_few_and_of_more_seeds_are_each_shown_their_way():
    _, ax = figures.axes()
    figures.line(ax, [1, 2], [[1.0, 2.0], [1.0, 2.0, 3.0]], figures.PRUNING, "pruned")
    assert ax.lines[-1].get_xdata().tolist() == [1, 1]
    (low, high), (lower, higher) = bars(ax)
    assert low == high == 1.5 and lower < 1 and higher > 3


@pytest.fixture
def curved(monkeypatch, shown):
    """Draws curves, and returns the axes of the figure that was shown."""

    def draw(**options):
        figure, ax = figures.axes()
        monkeypatch.setattr(drawing, "axes", lambda: (figure, ax))
        lines = {
            "pruned": (figures.look("pruned"), [100, 50, 10], RUNS),
            "retrained": (figures.look("retrained"), [100, 10], RUNS[:2]),
        }
        words = {"alt": ALT, "name": "fig-x", "caption": ALT}
        outputs = shown(lambda: figures.curves(lines, xlabel="kept (%)", ylabel="error (%)", **words | options))
        assert len(outputs) == 1
        return ax

    return draw


def test_dots_are_in_their_rows_with_bars_to_both_sides():
    _, ax = figures.axes()
    figures.dots(ax, [0, 1], [[1.0, 2.0, 3.0], [1.0, 4.0]], figures.PRUNING, "pruned", bounds=(1.5, 100.0))
    (means, caps, (bars,)), seeds = ax.containers[0], ax.lines[-1]
    assert means.get_xdata().tolist() == [2.0, 2.5] and means.get_ydata().tolist() == [0, 1]
    assert means.get_linestyle() == "None" and caps
    (first, second) = bars.get_segments()
    assert first[0][0] == 1.5 and first[1][0] == pytest.approx(2 + evidence.interval([1.0, 2.0, 3.0])[1])
    assert second[0][0] == second[1][0] == 2.5  # two seeds are shown themselves
    assert seeds.get_xdata().tolist() == [1.0, 4.0] and seeds.get_ydata().tolist() == [1, 1]


def test_curves_draw_every_line_and_the_level(curved):
    ax = curved(level=("dense network", 2.5))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["dense network", "pruned", "retrained"]
    drawn = {tuple(line.get_ydata()) for line in ax.lines}
    assert (2.5, 2.5) in drawn and (2.0, 3.0) in drawn and (2.0, 3.0, 13 / 3) in drawn
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("kept (%)", "error (%)")
    assert ax.get_xscale() == ax.get_yscale() == "linear" and not ax.xaxis_inverted()


@pytest.mark.parametrize(("log", "scales"), [("x", ("log", "linear")), ("y", ("linear", "log")), ("xy", ("log",) * 2)])
def test_curves_have_logarithmic_axes_and_a_falling_x(curved, log, scales):
    ax = curved(log=log, falling=True)
    assert (ax.get_xscale(), ax.get_yscale()) == scales and ax.xaxis_inverted()
    assert ax.xaxis.get_major_formatter()(50) == "50" or log == "y"


def test_curves_on_other_axes_are_refused(curved):
    with pytest.raises(ValueError, match=r"^log must be one of '', 'x', 'y' and 'xy', not 'z'$"):
        curved(log="z")


@pytest.mark.parametrize(
    ("line", "options", "says"),
    [
        (([1, 2], [[0.0], [1.0]]), {"log": "y"}, "value 0.0: accepted are numbers above 0 on a logarithmic axis"),
        (([1, 2], [[0.0, 2.0], [1.0]]), {"log": "y"}, "value 0.0: accepted are numbers above 0"),
        (([0, 2], [[1.0], [1.0]]), {"log": "x"}, "x 0.0: accepted are numbers above 0"),
        (([1, 2], [[float("nan")] * 3, [1.0]]), {}, "value nan: accepted are finite numbers"),
        (([1, float("inf")], [[1.0], [1.0]]), {}, "x inf: accepted are finite numbers"),
    ],
)
def test_numbers_that_an_axis_cannot_show_are_refused(shown, line, options, says):
    def refused():
        with pytest.raises(ValueError, match=f"^the line 'pruned' has the {says}"):
            figures.curves({"pruned": (figures.PRUNING, *line)}, xlabel="x", ylabel="y", **words | options)

    words = {"alt": ALT, "name": "fig-x", "caption": ALT}
    assert shown(refused) == []


def test_ticks_are_plain_numbers():
    _, ax = figures.axes()
    figures.logarithmic(ax, "x")
    ticks = [ax.xaxis.get_major_formatter()(value) for value in (1e6, 2e-5, 0.1, 50, 1e-15)]
    assert ticks == ["1,000,000", "0.00002", "0.1", "50", "1e-15"]


def test_curves_end_at_bounds_and_pass_their_words_on(monkeypatch, curved):
    words = {}
    monkeypatch.setattr(drawing, "show", lambda figure, **given: (words.update(given), figures.show(figure, **given)))
    ax = curved(bounds=(1.5, 4.0), finding=ALT, lead=True)
    ends = [end for container in ax.containers for s in container.lines[2][0].get_segments() for end in s[:, 1]]
    assert (min(ends), max(ends)) == pytest.approx((1.5, 13 / 3))  # a mean is drawn wherever it is
    assert words == {"alt": ALT, "name": "fig-x", "caption": ALT, "finding": ALT, "lead": True}


def test_the_style_ends_with_its_block():
    before = dict(matplotlib.rcParams)
    _, (ax, _) = figures.axes(2)
    figures.line(ax, [1, 2], [[1], [2]], figures.DENSE, "dense")
    figures.legend(ax)
    with figures.style():
        assert matplotlib.rcParams["axes.spines.top"] is False
    assert dict(matplotlib.rcParams) == before


def test_lines_and_legends_have_the_style():
    _, ax = figures.axes()
    figures.line(ax, [1, 2], [[1], [2]], figures.DENSE, "dense")
    figures.legend(ax)
    assert ax.lines[0].get_linewidth() == drawing.STYLE["lines.linewidth"]
    assert not ax.get_legend().get_frame_on()


def test_a_row_of_axes():
    _, row = figures.axes(3, sharey=True)
    assert len(row) == 3
