"""XOR against the definition of its fitness, and fitness from Python functions."""

import joblib
import numpy as np
import pytest

from lib.neuroevolution.neat import Evolution
from lib.neuroevolution.shared.genomes import Connection, Genome, Space
from lib.neuroevolution.shared.tasks import ANSWERS, CASES, Population, Scored, Xor

SOLUTION = Genome(  # the hidden node is "and": with its strong no, the output is "or, but not and"
    Space(2, 1),
    [
        *(Connection(i, i, 3, True, w) for i, w in enumerate((2.0, 2.0, -1.0))),
        *(Connection(3 + i, i, 4, True, w) for i, w in enumerate((2.0, 2.0, -3.0))),
        Connection(6, 4, 3, True, -6.0),
    ],
)


def of(*genomes):
    counts = np.array([len(genome.genes) for genome in genomes])
    genes = np.zeros((len(genomes), counts.max()), genomes[0].genes.dtype)
    for row, genome in zip(genes, genomes, strict=True):
        row[: len(genome.genes)] = genome.genes
    return Population(genomes[0].space, genes, counts)


def score(network):
    return (4 - np.abs(network(CASES)[:, 0] - ANSWERS).sum()) ** 2


def test_fitness_of_xor_is_the_formula_for_each_network():
    evolution = Evolution(Space(2, 1), population=40, seed=0)
    for _ in range(15):
        fitness, _ = Xor().evaluate(evolution.population)
        expected = [score(genome.network()) for genome in evolution.population.genomes()]
        np.testing.assert_allclose(fitness, expected, rtol=1e-12)
        evolution.advance(fitness)
    assert any(genome.hidden for genome in evolution.population.genomes())


def test_a_network_solves_xor_when_it_is_right_in_all_cases():
    wrong = Genome(SOLUTION.space, SOLUTION.connections[:3])  # or
    fitness, winner = Xor().evaluate(of(wrong, SOLUTION))
    assert winner == 1 and fitness[1] > fitness[0] and Xor().evaluate(of(wrong))[1] is None


def test_no_network_without_hidden_nodes_solves_xor():
    evolution = Evolution(Space(2, 1), population=3000, seed=1)
    fitness, winner = Xor().evaluate(evolution.population)
    assert winner is None and fitness.max() <= 9.01  # three cases right, one wrong


def test_a_python_function_scores_networks_and_has_a_goal():
    people = of(SOLUTION, Genome(SOLUTION.space, SOLUTION.connections[:3]))
    fitness, winner = Scored(score, goal=9.5).evaluate(people)
    np.testing.assert_allclose(fitness, Xor().evaluate(people)[0], rtol=1e-12)
    assert winner == 0 and Scored(score).evaluate(people)[1] is None


def test_joblib_gives_the_same_fitness_in_the_same_order():
    people = of(*[SOLUTION] * 5, Genome(SOLUTION.space, SOLUTION.connections[:3]))
    with joblib.parallel_config(backend="threading"):
        fitness, winner = Scored(score, goal=9.5, jobs=2).evaluate(people)
    np.testing.assert_array_equal(fitness, Scored(score).evaluate(people)[0])
    assert winner == 0


def test_networks_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="2 inputs and 1 outputs, not 3 and 1"):
        Xor().evaluate(Evolution(Space(3, 1), population=2, seed=0).population)
