"""Cells against their equations in plain Python, invariants of the mesh as it grows, two spirals and the vowels."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks
from small_sets import ROOT

from lib.datasets import load
from lib.self_organization.growing_cell_structures import GrowingCellClassifier, GrowingCellStructures
from lib.self_organization.shared import cells
from lib.self_organization.shared.graphs import cliques

UNIFORM = np.random.default_rng(0).random((400, 2))
CORNERS = (UNIFORM > 0.5).sum(1)  # three classes
MESH, CLASSIFIER = GrowingCellStructures, GrowingCellClassifier


def spirals() -> tuple[np.ndarray, np.ndarray]:
    """Two spirals of 97 points each, as Lang and Witbrock drew them."""
    i = np.arange(97)
    angle, radius = i * np.pi / 16, 6.5 * (104 - i) / 104
    one = np.column_stack([radius * np.sin(angle), radius * np.cos(angle)])
    return np.concatenate([one, -one]), np.repeat([0, 1], 97)


def vowels() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The published training set, which holds our validation split, and the test set."""
    dataset = load("vowel")
    train, validation, test = (
        (s.images.double().numpy(), s.labels.numpy()) for s in (dataset.train, dataset.validation, dataset.test)
    )
    return tuple(np.concatenate(pair) for pair in zip(train, validation, strict=True)), test


def lengths(mesh: dict[int, set[int]], positions: np.ndarray) -> np.ndarray:
    """Mean edge lengths, cell by cell."""
    return np.array([np.mean([np.linalg.norm(positions[c] - positions[n]) for n in mesh[c]]) for c in sorted(mesh)])


def grown(mesh: dict[int, set[int]], w: np.ndarray, q: int, exponent: float, *values: np.ndarray):
    """Split the longest edge of q and redistribute, in a mesh of triangles, one cell after the other."""
    f = max(sorted(mesh[q]), key=lambda n: np.linalg.norm(w[q] - w[n]))
    r, common, before = len(mesh), mesh[q] & mesh[f], lengths(mesh, w)
    w = np.vstack([w, (w[q] + w[f]) / 2])
    mesh[q].remove(f)
    mesh[f].remove(q)
    mesh[r] = {q, f} | common
    for n in mesh[r]:
        mesh[n].add(r)
    after = lengths(mesh, w)
    shared = []
    for value in values:
        value = np.concatenate([value, np.zeros_like(value[:1])])
        for c in mesh[r]:
            change = value[c] * (min((after[c] / before[c]) ** exponent, 1) - 1)
            value[c] = value[c] + change
            value[r] = value[r] - change
        shared.append(value)
    return w, *shared


@parametrize_with_checks([MESH(6, steps=60, insert_every=10)])
def test_scikit_learn_accepts_the_mesh(estimator, check):
    check(estimator)


@parametrize_with_checks([CLASSIFIER(20, epochs=25)])
def test_scikit_learn_accepts_the_classifier(estimator, check):
    check(estimator)


@pytest.mark.parametrize("resource", ["signals", "error"])
@pytest.mark.parametrize(("features", "exponent"), [(2, None), (4, 2.0)])
def test_the_mesh_follows_its_equations(features, exponent, resource):
    X = np.random.default_rng(1).normal(size=(400, features))
    ours = MESH(12, insert_every=30, resource=resource, exponent=exponent, snapshots=(0,))
    ours.partial_fit(X[:111]).partial_fit(X[111:])
    w, mesh, tau = ours.snapshots_[0].positions.copy(), {0: {1, 2}, 1: {0, 2}, 2: {0, 1}}, np.zeros(3)
    for t, x in enumerate(X, start=1):
        distances = np.linalg.norm(x - w, axis=1)
        s = distances.argmin()
        w[s] += 0.06 * (x - w[s])
        for n in mesh[s]:
            w[n] += 0.002 * (x - w[n])
        tau[s] += 1 if resource == "signals" else distances[s] ** 2
        tau *= 0.95
        if t % 30 == 0 and len(w) < 12:
            w, tau = grown(mesh, w, int(tau.argmax()), exponent or features, tau)
    np.testing.assert_allclose(ours.positions_, w, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.resources_, tau, rtol=1e-9)
    assert {frozenset((c, n)) for c in mesh for n in mesh[c]} == {frozenset(e) for e in ours.graph_.edges.tolist()}


@pytest.mark.parametrize("decay", [1.0, 0.3])
def test_the_classifier_follows_its_equations(decay):
    random = np.random.default_rng(1)
    X, y = random.normal(size=(60, 3)), random.integers(0, 3, 60)
    ours = CLASSIFIER(9, decay=decay, snapshots=(0,))
    for _ in range(9):
        ours.partial_fit(X, y)
    w, mesh = ours.snapshots_[0].positions.copy(), {0: {1, 2}, 1: {0, 2}, 2: {0, 1}}
    draws = np.random.default_rng(0)
    draws.permutation(60)  # the first simplex
    v, errors = np.zeros((3, 3)), np.zeros(3)
    for _ in range(9):
        for i in draws.permutation(60):
            distances = np.linalg.norm(X[i] - w, axis=1)
            activations = np.exp(-((distances / lengths(mesh, w)) ** 2))
            miss = np.eye(3)[y[i]] - activations @ v
            s = distances.argmin()
            errors[s] += (miss**2).sum()
            v += 0.1 * activations[:, None] * miss
            w[s] += 0.06 * (X[i] - w[s])
            for n in mesh[s]:
                w[n] += 0.002 * (X[i] - w[n])
        if len(w) < 9:
            w, errors, v = grown(mesh, w, int(errors.argmax()), 3, errors, v)
        errors *= 1 - decay
    np.testing.assert_allclose(ours.positions_, w, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours.output_weights_, v, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours.resources_, errors, rtol=0, atol=1e-9)
    activations = np.exp(-((cdist(X, w) / lengths(mesh, w)) ** 2))
    np.testing.assert_allclose(ours.transform(X), activations, atol=1e-9)
    assert np.array_equal(ours.predict(X), (activations @ v).argmax(1))
    np.testing.assert_allclose(ours.decision_function(X), activations @ v, atol=1e-9)


@settings(max_examples=12)
@given(st.integers(0, 2**31), st.integers(1, 3), st.sampled_from(["resource", "random"]))
def test_simplices_stay_whole_after_each_insertion(seed, dimension, insertion):
    X = np.random.default_rng(seed).normal(size=(200, 3))
    every = tuple(range(0, 601, 20))
    options = {"insert_every": 20, "steps": 600, "snapshots": every, "insertion": insertion}
    mesh = MESH(25, dimension=dimension, random_state=seed, **options).fit(X)
    for i, graph in enumerate(mesh.snapshots_):
        assert len(graph.positions) == min(dimension + 1 + i, 25)
        whole = cliques(graph.adjacency, dimension + 1)
        held = {frozenset((a, b)) for s in whole.tolist() for a in s for b in s if a != b}
        assert held == {frozenset(edge) for edge in graph.edges.tolist()}  # every edge is in a simplex
        assert graph.euler_characteristic(dimension) == 1 and graph.components == 1


@pytest.mark.parametrize("resource", ["signals", "error"])
def test_resources_are_conserved_after_each_insertion(monkeypatch, resource):
    sums, grow = [], cells.grow

    def watched(positions, adjacency, q, dimension, exponent, values):
        result = grow(positions, adjacency, q, dimension, exponent, values)
        sums.extend((old.sum(0), new.sum(0), new) for old, new in zip(values, result[2], strict=True))
        return result

    monkeypatch.setattr(cells, "grow", watched)
    MESH(40, insert_every=20, steps=1000, resource=resource).fit(UNIFORM)
    assert len(sums) == 37 and all((new >= 0).all() for *_, new in sums)
    CLASSIFIER(20, epochs=20).fit(UNIFORM, CORNERS)
    assert len(sums) == 37 + 2 * 17
    for old, new, _ in sums:
        np.testing.assert_allclose(new, old, rtol=1e-12, atol=1e-12)


def test_cells_are_denser_where_samples_are():
    X = np.concatenate([UNIFORM[:50] - [1, 0], UNIFORM[50:]])
    mesh = MESH(60, steps=15_000).fit(X)
    assert (mesh.positions_[:, 0] > 0).mean() > 0.7
    assert mesh.quantization_error(X) < MESH(10, steps=15_000).fit(X).quantization_error(X) / 2


def test_cells_stay_in_the_hull_of_the_samples():
    X = np.random.default_rng(2).normal(size=(200, 4))
    directions = np.random.default_rng(3).normal(size=(200, 4))
    for positions in (MESH(30, steps=7000).fit(X).positions_, CLASSIFIER(30, epochs=30).fit(X, X[:, 0] > 0).positions_):
        assert ((positions @ directions.T).max(0) <= (X @ directions.T).max(0) + 1e-12).all()


def test_removal_parts_the_mesh_between_two_clusters():
    random = np.random.default_rng(0)
    X = np.concatenate([random.normal(size=(500, 2)), random.normal(size=(500, 2)) + 17]) * 0.3
    whole = MESH(60, steps=20_000, decay=0.002).fit(X).graph_
    parted = MESH(60, steps=20_000, decay=0.002, removal=0.09).fit(X).graph_
    assert whole.components == whole.euler_characteristic() == 1
    assert parted.components == parted.euler_characteristic() == 2
    between = abs(parted.positions.sum(1) - 5.1) < 2
    assert not between.any() and (abs(whole.positions.sum(1) - 5.1) < 2).any()


def test_two_spirals_are_told_apart_by_at_most_150_cells():
    X, y = spirals()
    for seed in range(2):
        network = CLASSIFIER(150, epochs=300, target=0.0, random_state=seed).fit(X, y)
        assert network.score(X, y) == 1 and len(network.positions_) <= 150 and network.n_iter_ < 300
        assert network.graph_.euler_characteristic() == 1


@pytest.mark.skipif(not (ROOT / "vowel").is_dir(), reason="SURVEY_DATA holds no vowels")
def test_cells_name_vowels_of_new_speakers_better_than_nearest_neighbors():
    train, test = vowels()
    assert KNeighborsClassifier(1).fit(*train).score(*test) == 260 / 462
    networks = [CLASSIFIER(120, random_state=seed).fit(*train) for seed in range(5)]
    shares = [network.score(*test) for network in networks]
    assert np.mean(shares) >= 0.60 and min(shares) > 260 / 462
    assert all(len(network.positions_) == 120 and network.n_iter_ == 120 for network in networks)


def test_the_target_ends_growth():
    mesh = MESH(100, target=0.08).fit(UNIFORM)
    assert mesh.quantization_error(UNIFORM) == pytest.approx(0.08, abs=0.02) and mesh.n_iter_ < 40_000
    network = CLASSIFIER(100, epochs=200, target=0.1).fit(UNIFORM, CORNERS)
    assert network.score(UNIFORM, CORNERS) >= 0.9 and network.n_iter_ < 100
    assert len(network.positions_) == network.n_iter_ + 2  # a cell after each epoch but the last


def test_a_learned_mesh_is_learned_on():
    once = MESH(15, insert_every=30).partial_fit(UNIFORM[:1]).partial_fit(UNIFORM[1:])
    pieces = MESH(15, insert_every=30, snapshots=(1, 77)).partial_fit(UNIFORM[:1])
    for begin, end in [(1, 47), (47, 90), (90, 400)]:
        pieces = copy.deepcopy(pieces).partial_fit(UNIFORM[begin:end])
    assert np.array_equal(once.positions_, pieces.positions_) and np.array_equal(once.resources_, pieces.resources_)
    assert [s.step for s in pieces.snapshots_] == [1, 77] and len(pieces.positions_) == 15


def test_epochs_one_by_one_are_a_fit():
    whole = CLASSIFIER(12, epochs=20).fit(UNIFORM, CORNERS)
    pieces = CLASSIFIER(12)
    for _ in range(20):
        pieces = copy.deepcopy(pieces).partial_fit(UNIFORM, CORNERS)
    assert np.array_equal(whole.output_weights_, pieces.output_weights_) and pieces.n_iter_ == 20


def test_snapshots_of_the_classifier_are_by_epochs():
    network = CLASSIFIER(12, epochs=20, snapshots=(0, 4, 20)).fit(UNIFORM, CORNERS)
    assert [(s.step, len(s.positions)) for s in network.snapshots_] == [(0, 3), (4, 7), (20, 12)]


def test_the_same_seed_gives_the_same_and_moves_no_other():
    before = np.random.get_state()[1].copy()
    for insertion in ("error", "random"):
        first, second, other = (
            CLASSIFIER(12, epochs=12, insertion=insertion, random_state=s).fit(UNIFORM, CORNERS) for s in (4, 4, 5)
        )
        assert np.array_equal(first.output_weights_, second.output_weights_)
        assert not np.array_equal(first.output_weights_, other.output_weights_)
    assert np.array_equal(before, np.random.get_state()[1])


def test_float32_stays_float32_and_is_close():
    single = UNIFORM.astype(np.float32)
    mesh = MESH(10, steps=600, insert_every=50).fit(single)
    assert mesh.positions_.dtype == mesh.transform(single).dtype == np.float32
    expected = MESH(10, steps=600, insert_every=50).fit(UNIFORM).positions_
    np.testing.assert_allclose(mesh.positions_, expected, atol=1e-4)
    network = CLASSIFIER(10, epochs=12).fit(single, CORNERS)
    assert network.output_weights_.dtype == network.transform(single).dtype == np.float32
    assert np.mean(network.predict(single) == CLASSIFIER(10, epochs=12).fit(UNIFORM, CORNERS).predict(UNIFORM)) > 0.97


def test_labels_may_be_words_and_one_class_is_a_class():
    words = np.array(["low", "middle", "high"])[CORNERS]
    network = CLASSIFIER(40, epochs=50).fit(UNIFORM, words)
    assert network.classes_.tolist() == ["high", "low", "middle"] and network.score(UNIFORM, words) > 0.85
    assert set(CLASSIFIER(5, epochs=5).fit(UNIFORM, np.full(400, 7)).predict(UNIFORM)) == {7}


@pytest.mark.parametrize("X", [[[1.0, 2.0]], np.ones((30, 2))])
def test_samples_at_one_place_leave_one_simplex(X):
    mesh = MESH(50, steps=2000).fit(X)
    assert len(mesh.positions_) == 3 and mesh.quantization_error(X) == 0
    network = CLASSIFIER(20, epochs=30).fit(X, np.arange(len(X)) % 2)
    assert (
        len(network.positions_) == 3
        and (network.transform(X) == 1).all()
        and np.isfinite(network.output_weights_).all()
    )


def test_more_cells_than_samples_are_accepted():
    X, y = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]]), np.array([0, 1, 1, 0])
    assert len(MESH(20, steps=4000).fit(X).positions_) == 20
    network = CLASSIFIER(20, epochs=60).fit(X, y)
    assert len(network.positions_) == 20 and network.score(X, y) == 1  # exclusive or


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dimension": 0}, "dimension is 0"),
        ({"dimension": 11}, "dimension is 11; it must be at most 10"),
        ({"max_units": 2}, "max_units is 2; it must be a whole number, 3 or more"),
        ({"max_units": 3, "dimension": 3}, "max_units is 3; it must be a whole number, 4 or more"),
        ({"winner_rate": 0}, "winner_rate is 0"),
        ({"neighbor_rate": 2}, "neighbor_rate is 2"),
        ({"decay": -1}, "decay is -1"),
        ({"exponent": 0}, "exponent is 0"),
        ({"target": -0.1}, "target is -0.1"),
        ({"snapshots": (10_000_000,)}, "snapshots has the step 10000000; fit makes"),
        ({"random_state": 1.5}, "random_state is 1.5"),
    ],
)
def test_parameters_that_both_refuse(options, words):
    for estimator in (MESH(**{"max_units": 9, **options}), CLASSIFIER(**{"max_units": 9, **options})):
        with pytest.raises(ValueError, match=words):
            estimator.fit(UNIFORM, CORNERS)


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (MESH(steps=0), "steps is 0"),
        (MESH(insert_every=0), "insert_every is 0"),
        (MESH(resource="count"), "resource is 'count'; it must be one of 'signals', 'error'"),
        (MESH(insertion="error"), "insertion is 'error'; it must be one of 'resource', 'random'"),
        (MESH(removal=0), "removal is 0"),
        (CLASSIFIER(epochs=0), "epochs is 0"),
        (CLASSIFIER(learning_rate=0), "learning_rate is 0"),
        (CLASSIFIER(insertion="resource"), "insertion is 'resource'; it must be one of 'error', 'random'"),
        (CLASSIFIER(target=2), "target is 2"),
    ],
)
def test_parameters_that_one_refuses(estimator, words):
    with pytest.raises(ValueError, match=words):
        estimator.fit(UNIFORM, CORNERS)


def test_output_weights_that_diverge_are_refused_and_nothing_changes():
    X, y = np.ones((400, 2)), np.arange(400) % 2  # eleven cells at one place answer alike
    network = CLASSIFIER(11, dimension=10, learning_rate=0.05, epochs=2).fit(X, y)
    before, draws = network.output_weights_.copy(), network._random.bit_generator.state
    network.set_params(learning_rate=1.0)
    for method in (network.partial_fit, network.fit):
        with pytest.raises(ValueError, match=r"the output weights diverge with learning_rate 1\.0; it must be smaller"):
            method(X, y)
    assert np.array_equal(network.output_weights_, before) and network.n_iter_ == 2
    assert network._random.bit_generator.state == draws


def test_classes_that_were_not_announced_are_refused():
    network = CLASSIFIER(9).partial_fit(UNIFORM, CORNERS, classes=[0, 1, 2, 5])
    assert network.classes_.tolist() == [0, 1, 2, 5] and network.output_weights_.shape == (4, 4)
    with pytest.raises(ValueError, match=r"y has the class 3; the known classes are \[0, 1, 2, 5\]"):
        network.partial_fit(UNIFORM, CORNERS + 1)
    with pytest.raises(ValueError, match=r"y has the class 2; the known classes are \[0, 1\]"):
        CLASSIFIER(9).partial_fit(UNIFORM, CORNERS, classes=[0, 1])


def test_samples_and_labels_that_are_not_accepted_are_refused_and_nothing_changes():
    broken = UNIFORM.copy()
    broken[3, 1] = np.nan
    mesh, network = MESH(5, steps=900).fit(UNIFORM), CLASSIFIER(5, epochs=5).fit(UNIFORM, CORNERS)
    graphs = mesh.graph_, network.graph_
    for method in (mesh.fit, mesh.partial_fit, network.fit, network.partial_fit):
        with pytest.raises(ValueError, match="X has nan in row 3, column 1"):
            method(broken, CORNERS)
    with pytest.raises(ValueError, match="requires y to be passed"):
        network.fit(UNIFORM, None)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        network.fit(UNIFORM, CORNERS[1:])
    with pytest.raises(ValueError, match="Unknown label type"):
        network.fit(UNIFORM, UNIFORM[:, 0])
    assert (mesh.graph_, network.graph_) == graphs


def test_another_dimension_is_refused_in_the_middle():
    for estimator in (MESH(9).partial_fit(UNIFORM), CLASSIFIER(9).partial_fit(UNIFORM, CORNERS)):
        with pytest.raises(ValueError, match="dimension is 3, but the cells have 2; call fit for another one"):
            estimator.set_params(dimension=3).partial_fit(UNIFORM, CORNERS)
