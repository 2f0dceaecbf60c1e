"""Genomes and their networks, against sums written out in Python, and genes that no network can have."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

from lib.neuroevolution.shared.genomes import Connection, Genome, Space, answers, has_cycle, programs


def sigma(x):
    return 1 / (1 + np.exp(-4.9 * x))


def grown(recurrent=False):
    """Two inputs (0, 1), bias 2, output 3, hidden nodes 7 and 5: 0 -> 7 -> 5 -> 3, and direct connections."""
    pairs = [(0, 3, 0.3), (1, 3, -0.4), (2, 3, 0.2), (0, 7, 1.1), (7, 5, -0.7), (5, 3, 0.9), (1, 5, 0.6), (2, 7, 0.5)]
    genes = [Connection(10 * n, i, j, n != 1, w) for n, (i, j, w) in enumerate(pairs)]
    extra = [Connection(90, 3, 7, True, 0.8), Connection(91, 5, 5, True, -0.3)] if recurrent else []
    return Genome(Space(2, 1, recurrent=recurrent, bias=0.5), genes + extra)


def test_a_network_is_the_sums_of_its_enabled_connections():
    x = np.random.default_rng(0).normal(size=(20, 2))
    h7 = sigma(1.1 * x[:, 0] + 0.5 * 0.5)
    h5 = sigma(-0.7 * h7 + 0.6 * x[:, 1])
    expected = sigma(0.3 * x[:, 0] + 0.2 * 0.5 + 0.9 * h5)  # the connection from input 1 to the output is disabled
    np.testing.assert_allclose(grown().network()(x)[:, 0], expected, rtol=1e-14)


def test_the_order_of_computation_does_not_depend_on_node_numbers():
    genome = grown()
    names = {7: 4, 5: 9}  # now the node that is read first has the smaller number
    renamed = [
        c._replace(source=names.get(c.source, c.source), target=names.get(c.target, c.target))
        for c in genome.connections
    ]
    x = np.random.default_rng(1).normal(size=(5, 2))
    np.testing.assert_array_equal(Genome(genome.space, renamed).network()(x), genome.network()(x))


def test_with_recurrence_nodes_read_what_was_given_one_step_before():
    network, x = grown(recurrent=True).network(), np.random.default_rng(2).normal(size=(12, 2))
    h5 = h7 = y = 0.0
    for row, output in zip(x, network(x)[:, 0], strict=True):
        h7, h5, y = (
            sigma(1.1 * row[0] + 0.25 + 0.8 * y),
            sigma(-0.7 * h7 + 0.6 * row[1] - 0.3 * h5),
            sigma(0.3 * row[0] + 0.1 + 0.9 * h5),
        )
        assert output == pytest.approx(y, rel=1e-13)


@pytest.mark.parametrize("recurrent", [False, True])
def test_steps_one_by_one_give_what_a_sequence_gives(recurrent):
    network, x = grown(recurrent).network(), np.random.default_rng(3).normal(size=(9, 2))
    for _ in range(2):
        network.reset()
        assert np.array_equal(network(x), [network.step(row) for row in x])


def test_several_networks_at_once_give_what_each_gives():
    genome = grown()
    other = Genome(genome.space, genome.connections[:3])
    rows = np.zeros((2, 11), genome.genes.dtype)
    rows[0, :8], rows[1, :3] = genome.genes, other.genes
    x = np.random.default_rng(4).normal(size=(6, 2))
    both = answers(programs(genome.space, rows, np.array([8, 3])), genome.space, x)
    np.testing.assert_array_equal(both, [genome.network()(x), other.network()(x)])


def test_the_minimal_genome_connects_all_inputs_to_all_outputs():
    pairs = Space(2, 2).minimal()[["source", "target"]].tolist()
    assert pairs == [(0, 3), (1, 3), (2, 3), (0, 4), (1, 4), (2, 4)]
    with_hidden = Genome.of_genes(Space(6, 1, hidden=10), Space(6, 1, hidden=10).minimal())
    assert len(with_hidden.genes) == 7 * 10 + 10 + 1 and with_hidden.hidden == list(range(8, 18))


def test_a_genome_is_readable_and_equal_to_its_copies():
    genome = grown()
    assert genome.nodes == {0: "input", 1: "input", 2: "bias", 3: "output", 5: "hidden", 7: "hidden"}
    assert genome.links == 7 and genome.connections[3] == Connection(30, 0, 7, True, 1.1)
    for same in (
        copy.deepcopy(genome),
        pickle.loads(pickle.dumps(genome)),
        Genome(genome.space, genome.connections[::-1]),
    ):
        assert same == genome
    assert genome != Genome(genome.space, genome.connections[:-1]) and genome != "genome"


def test_depths_are_the_longest_ways_from_the_inputs():
    assert grown().depths() == {0: 0, 1: 0, 2: 0, 3: 3, 7: 1, 5: 2}
    assert grown(recurrent=True).depths() == grown().depths()  # the connections that close cycles come last


def test_a_cycle_is_found_wherever_it_is():
    assert not has_cycle(grown()) and has_cycle(grown(recurrent=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: [*c, c[0]], "same innovation number"),
        (lambda c: [*c, c[0]._replace(innovation=99)], "same node to the same node"),
        (lambda c: [*c, Connection(99, 0, 1, True, 1.0)], "neither an input nor the bias"),
        (lambda c: [*c, Connection(99, -1, 3, True, 1.0)], "must lead from a node"),
        (lambda c: [*c, Connection(99, 8, 3, True, 1.0)], "hidden node 8"),
        (lambda c: [*c, Connection(99, 3, 7, False, 1.0)], "cycle"),
        (lambda c: [*c, Connection(99, 5, 5, True, 1.0)], "cycle"),
        (lambda c: [c[0]._replace(weight=np.nan), *c[1:]], "finite"),
        (lambda c: [c[0]._replace(innovation=-1), *c[1:]], "innovation number must not be negative"),
        (lambda c: [x._replace(enabled=x.target != 3) for x in c], "no enabled connection leads to the output 3"),
        (lambda c: [], "no enabled connection leads to the output 3"),
    ],
)
def test_genes_that_no_network_can_have_are_refused(change, says):
    genome = grown()
    with pytest.raises(ValueError, match=says):
        Genome(genome.space, change(genome.connections))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"inputs": 0}, "inputs must be 1"),
        ({"outputs": 0}, "outputs must be 1"),
        ({"hidden": -1}, "hidden must be 0"),
        ({"bias": np.inf}, "bias must be finite"),
    ],
)
def test_a_space_without_inputs_or_outputs_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        replace(Space(2, 1), **change)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        ([[1.0]], r"takes \(n, 2\)"),
        ([1.0, 2.0], r"takes \(n, 2\)"),
        ([[1.0, np.nan]], "inputs of a network must be finite"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x, says):
    with pytest.raises(ValueError, match=says):
        grown().network()(x)


def test_inputs_of_other_types_and_layouts_are_right():
    x = np.random.default_rng(5).normal(size=(2, 6)).astype(np.float32)
    expected = grown().network()(np.ascontiguousarray(x.T, np.float64))
    np.testing.assert_array_equal(grown().network()(x.T), expected)
    assert grown().network()(np.empty((0, 2))).shape == (0, 1)
