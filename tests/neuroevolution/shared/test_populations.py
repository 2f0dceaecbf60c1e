"""Populations in species: constant sizes, how many children a species has, who has them, refusals."""

from collections import Counter

import numpy as np
import pytest

from lib.neuroevolution.shared import graphs
from lib.neuroevolution.shared.assembly import Space
from lib.neuroevolution.shared.populations import Population, Settings, shared_out

CHOICES = Space().of_modules()


def population(count: int = 20, seed: int = 0, **options) -> Population:
    return Population(count, CHOICES, Settings(**options), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(3))
def test_each_graph_is_in_one_species_and_close_to_its_representative(seed):
    made = population(40, seed, threshold=1.0, species=10)
    for _ in range(4):
        assert sorted(place for s in made.species for place in s.members) == list(range(40))
        assert len({s.number for s in made.species}) == len(made.species)
        before = {s.number: s.representative for s in made.species}
        made.advance(np.ones(40), CHOICES)
        assert len(made.species) < 10  # so the threshold was not raised
        for s in made.species:
            assert s.representative in [made.graphs[place] for place in s.members]
            if s.number in before:
                assert all(graphs.distance(made.graphs[n], before[s.number]) < 1 for n in s.members)


def test_sizes_are_constant_and_species_few_over_generations():
    made, random = population(17, species=9), np.random.default_rng(1)
    for _ in range(12):
        made.advance(random.uniform(0, 1, 17), CHOICES)
        assert len(made.graphs) == 17 and 1 <= len(made.species) <= 4
    assert max(len(graph.nodes) for graph in made.graphs) > 3


def test_numbers_of_species_are_never_used_again():
    made, random, dead = population(16, species=4, threshold=0.3), np.random.default_rng(2), set()
    for _ in range(15):
        before = set(made.living())
        made.advance(random.uniform(0, 1, 16), CHOICES)
        dead |= before - set(made.living())
        assert not dead & set(made.living())
    assert dead


def test_children_are_shared_out_in_proportion_and_add_up():
    assert shared_out([1.0, 3.0], 8) == [2, 6] and shared_out([0.0, 0.0], 4) == [2, 2]
    random = np.random.default_rng(0)
    for _ in range(50):
        shares, total = random.uniform(0, 1, 5).tolist(), int(random.integers(1, 30))
        counts = shared_out(shares, total)
        exact = [total * share / sum(shares) for share in shares]
        assert sum(counts) == total and all(abs(a - b) < 1 for a, b in zip(counts, exact, strict=True))


def test_only_survivors_have_children_and_the_best_goes_on():
    made = population(10, species=1, survivors=0.2, crossover=0.0, add_node=0.0, add_link=0.0)
    fitness = np.arange(10.0)
    parents = [made.graphs[9], made.graphs[8]]
    made.advance(fitness, CHOICES)
    assert made.graphs[0] == parents[0]
    for child in made.graphs[1:]:
        assert min(sum(a != b for a, b in zip(child.nodes[2], p.nodes[2], strict=True)) for p in parents) <= 1


def test_species_of_larger_mean_fitness_have_more_children():
    made = population(20, species=3, threshold=0.6)
    assert len(made.species) > 1
    fitness, first = np.full(20, 0.1), made.species[0]
    fitness[first.members] = 0.9
    shares = [0.9 - 0.1] + [0.0] * (len(made.species) - 1)  # counted from the worst
    expected = shared_out(shares, 20)[0]
    old = made.graphs
    made.settings = Settings(crossover=0.0, add_node=0.0, add_link=0.0, threshold=0.6)
    made.advance(fitness, CHOICES)
    # the children of the first species come first, each one change away from a member of it
    members = [old[n].nodes[2] for n in first.members]
    near = [min(sum(a != b for a, b in zip(g.nodes[2], m, strict=True)) for m in members) <= 1 for g in made.graphs]
    assert all(near[:expected]) and expected > len(first.members)


def test_what_is_not_known_counts_as_the_average_of_the_others():
    made, same = population(), population()
    fitness = np.random.default_rng(0).uniform(0, 1, 20)
    fitness[3] = np.nan
    filled = fitness.copy()
    filled[3] = np.nanmean(fitness)
    made.advance(fitness, CHOICES)
    same.advance(filled, CHOICES)
    assert made.graphs == same.graphs


def test_mutations_come_as_often_as_the_settings_say():
    made = population(400, crossover=0.0, add_node=0.3, add_link=0.2, species=1)
    made.advance(np.ones(400), CHOICES)
    kinds = Counter((len(graph.nodes), len(graph.links)) for graph in made.graphs[1:])
    assert set(kinds) == {(2, 2), (3, 4), (2, 3)}
    for kind, share in (((3, 4), 0.3), ((2, 3), 0.2), ((2, 2), 0.5)):
        assert abs(kinds[kind] / 399 - share) < 4 * (share * (1 - share) / 399) ** 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"species": 0}, "species must be 1 or more, not 0"),
        ({"threshold": -0.1}, "threshold must be 0 or more and finite"),
        ({"threshold": float("inf")}, "threshold must be 0 or more and finite"),
        ({"crossover": 1.1}, r"must be in \[0, 1\], not"),
        ({"add_node": 0.6, "add_link": 0.6}, "the sum of the last two"),
        ({"add_link": float("nan")}, r"must be in \[0, 1\], not"),
        ({"survivors": 0.0}, r"survivors must be in \(0, 1\], not 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)
