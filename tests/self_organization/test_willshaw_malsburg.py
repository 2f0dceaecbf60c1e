"""Map formation: constant strengths, order by lateral interaction and markers, and the equations in plain numpy."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from lib.self_organization.willshaw_malsburg import WillshawMalsburg, neighboring_pairs

PAIRS = neighboring_pairs(6, 6)
FAST = {"rate": 0.016, "presentations": 10_000}


def kernel(rows: int, columns: int, values: tuple[float, ...]) -> np.ndarray:
    """e between each two cells, by their city-block distance."""
    places = np.argwhere(np.ones((rows, columns)))
    distance = np.abs(places[:, None] - places).sum(axis=2)
    return sum((value * (distance == d) for d, value in enumerate(values, 1)), np.zeros(distance.shape))


def settled(incoming: np.ndarray, lateral: np.ndarray) -> tuple[np.ndarray, int]:
    """H* from the equations with the paper's constants, and the number of steps that it takes."""
    potential, steps = incoming.copy(), 0
    while True:
        change = -0.5 * potential + incoming + lateral @ np.maximum(0, potential - 10)
        before = potential.mean()
        potential, steps = potential + change, steps + 1
        if abs(potential.mean() - before) <= 0.005 * before:
            return np.maximum(0, potential - 10), steps


@parametrize_with_checks([WillshawMalsburg((2, 3), presentations=20)])
def test_scikit_learn_accepts_the_estimator(estimator, check):
    check(estimator)


def test_one_pass_follows_the_equations():
    model = WillshawMalsburg(rate=0.05).partial_fit(PAIRS[:1])
    assert model.n_iter_ == 1
    expected, lateral, steps = model.weights_.copy(), kernel(6, 6, (0.05, 0.025, -0.06)), []
    for pattern in PAIRS:
        active, taken = settled(pattern @ expected, lateral)
        steps.append(taken)
        expected += 0.05 * np.outer(pattern, np.where(active > 2, active, 0))
        expected *= 2.5 / expected.mean(axis=0)
    model.partial_fit(PAIRS)
    np.testing.assert_allclose(model.weights_, expected, rtol=1e-12)
    np.testing.assert_allclose(
        model.transform(PAIRS[7:8])[0], settled(PAIRS[7] @ model.weights_, lateral)[0], rtol=1e-9
    )
    assert 4 < np.mean(steps) < 9  # potentials settle in few steps
    assert model.n_iter_ == 1 + len(PAIRS)


@pytest.mark.parametrize("seed", range(5))
def test_a_map_forms_in_ten_thousand_presentations(seed):
    assert WillshawMalsburg(**FAST, random_state=seed).fit(PAIRS).rank_correlation() >= 0.85


def test_a_map_forms_with_the_default_constants():
    model = WillshawMalsburg().fit(PAIRS)
    assert model.rank_correlation() >= 0.9 and model.n_iter_ == 60_000
    fields = model.receptive_fields().reshape(6, 6, 2)
    assert (np.diff(fields[..., 0].mean(axis=1)) > 0).all()  # rows in order: the markers fix how the map is turned
    assert (np.diff(fields[..., 1].mean(axis=0)) > 0).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("without", [{"lateral": ()}, {"marker": 1.0}])
def test_no_map_forms_without_lateral_interaction_or_without_markers(without, seed):
    model = WillshawMalsburg(**FAST, **without, random_state=seed).fit(PAIRS)
    assert model.rank_correlation() < 0.2


def test_without_markers_no_cell_learns():
    first = WillshawMalsburg(marker=1.0, presentations=1).fit(PAIRS).weights_
    last = WillshawMalsburg(marker=1.0, presentations=5000).fit(PAIRS).weights_
    np.testing.assert_allclose(first, last, rtol=1e-12)


def test_the_mean_strength_of_each_cell_is_constant_at_all_times():
    model = WillshawMalsburg(rate=0.1)
    for _ in range(10):
        model.partial_fit(PAIRS)
        np.testing.assert_allclose(model.weights_.mean(axis=0), 2.5, rtol=1e-12)
        assert (model.weights_ > 0).all()


def test_markers_join_the_middles_of_both_sheets():
    plain, marked = (WillshawMalsburg(marker=m, presentations=1, rate=1e-9).fit(PAIRS).weights_ for m in (1.0, 5.0))
    ratio = marked / plain
    stronger = np.argwhere(ratio > 2)
    assert stronger.tolist() == [[cell, cell] for cell in (14, 15, 20, 21)]


def test_sheets_of_other_sizes_are_accepted():
    pairs = neighboring_pairs(4, 5)
    model = WillshawMalsburg((3, 7), source=(4, 5), presentations=100).fit(pairs)
    assert model.weights_.shape == (20, 21) and model.receptive_fields().shape == (21, 2)
    assert model.transform(pairs).shape == (31, 21)
    square = WillshawMalsburg((3, 7), presentations=100).fit(pairs)  # the most square of 20 cells
    assert np.array_equal(model.receptive_fields(), square.receptive_fields())


def test_pairs_are_all_neighbors_and_each_once():
    assert len(PAIRS) == 2 * 6 * 5 and len(np.unique(PAIRS, axis=0)) == len(PAIRS)
    assert (PAIRS.sum(axis=1) == 2).all()
    assert sorted(set(PAIRS.sum(axis=0))) == [2, 3, 4]  # a corner, a side, the inside
    with pytest.raises(ValueError, match="the sheet has 1 cell; a pair needs two or more"):
        neighboring_pairs(1, 1)
    with pytest.raises(ValueError, match=r"the sheet.* is 0"):
        neighboring_pairs(0, 3)


def test_receptive_fields_are_the_weighed_places():
    model = WillshawMalsburg((1, 2), source=(2, 2), presentations=1).fit(neighboring_pairs(2, 2))
    model.weights_ = np.array([[1.0, 0.0], [1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    np.testing.assert_allclose(model.receptive_fields(), [[0.5, 0.25], [1.0, 0.75]])


def test_a_perfect_map_has_correlation_one():
    model = WillshawMalsburg(presentations=1).fit(PAIRS)
    model.weights_ = np.eye(36)
    assert model.rank_correlation() == pytest.approx(1)


def test_a_rank_correlation_of_two_cells_is_refused():
    model = WillshawMalsburg((1, 2), presentations=1).fit(PAIRS)
    with pytest.raises(ValueError, match="the rank correlation is not defined"):
        model.rank_correlation()


def test_silence_changes_nothing():
    model = WillshawMalsburg().partial_fit(np.zeros((1, 36)))
    before = model.weights_.copy()
    assert np.array_equal(model.partial_fit(np.zeros((5, 36))).weights_, before)
    assert not model.transform(np.zeros((2, 36))).any() and model.predict(np.zeros((2, 36))).tolist() == [0, 0]


def test_the_seed_decides():
    first, again, other = (WillshawMalsburg(presentations=200, random_state=s).fit(PAIRS).weights_ for s in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_whole_numbers_as_parameters_change_nothing():
    whole = WillshawMalsburg(presentations=200, threshold=10, marker=5, learning_threshold=2).fit(PAIRS.astype(int))
    assert np.array_equal(whole.weights_, WillshawMalsburg(presentations=200).fit(PAIRS).weights_)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sheet": (0, 6)}, r"sheet\[0\] is 0"),
        ({"source": (5, 5)}, "X has 36 features; .* ask for 25"),
        ({"presentations": 0}, "presentations is 0"),
        ({"relaxation": 0}, "relaxation is 0"),
        ({"rate": 0.0}, "rate is 0.0; .* above 0"),
        ({"strength": -1.0}, "strength is -1.0"),
        ({"marker": 0}, "marker is 0"),
        ({"tolerance": np.nan}, "tolerance is nan"),
        ({"spread": -0.1}, "spread is -0.1; .* at least 0"),
        ({"threshold": -1}, "threshold is -1"),
        ({"learning_threshold": np.inf}, "learning_threshold is inf"),
        ({"decay": 2.0}, "decay is 2.0; .* at most 1"),
        ({"lateral": 0.05}, "lateral is 0.05; it must be numbers for the distances"),
        ({"lateral": (0.1, np.nan)}, "lateral at distance 2 is nan"),
        ({"lateral": (1.0,)}, "the potentials grow without bound"),
        ({"random_state": 0.5}, "random_state is 0.5"),
    ],
)
def test_bad_parameters_are_refused_and_change_nothing(options, words):
    model = WillshawMalsburg(presentations=10).fit(PAIRS)
    before = model.weights_.copy()
    with pytest.raises(ValueError, match=words):
        model.set_params(**options).fit(PAIRS)
    assert np.array_equal(model.weights_, before) and model.n_iter_ == 10


@pytest.mark.parametrize("sheet", [(2, 2), (4, 9)])  # fewer cells, and as many in another shape
def test_another_sheet_cannot_go_on(sheet):
    model = WillshawMalsburg(presentations=10).fit(PAIRS)
    before = model.transform(PAIRS), model.rank_correlation()
    model.set_params(sheet=sheet)
    assert np.array_equal(model.transform(PAIRS), before[0]) and model.rank_correlation() == before[1]
    with pytest.raises(ValueError, match=r"sheet is \(.*\), but the model has a sheet of \(6, 6\)"):
        model.partial_fit(PAIRS)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_bad_activities_are_refused(wrong):
    model, X = WillshawMalsburg(presentations=10).fit(PAIRS), PAIRS.copy()
    X[3, 4] = wrong
    for call in (model.fit, model.partial_fit, model.transform, model.predict):
        with pytest.raises(ValueError, match=r"finite|Negative values in data"):
            call(X)
