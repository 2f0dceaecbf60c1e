"""NEAT: properties of genomes over generations, variation against its definitions, XOR and poles against the paper."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.neuroevolution import neat
from lib.neuroevolution.neat import PAPER, Evolution, Settings, crossover, distance
from lib.neuroevolution.shared.genomes import Connection, Genome, Space, has_cycle
from lib.neuroevolution.shared.poles import DoublePole, HiddenVelocities
from lib.neuroevolution.shared.tasks import CASES, Scored, Xor

GROWTH = Settings(add_node=0.3, add_link=0.4)
SPACES = st.builds(Space, st.integers(1, 3), st.integers(1, 3), hidden=st.integers(0, 2), recurrent=st.booleans())
SEEDS = st.integers(0, 2**32)
few = settings(max_examples=12)


def generations(space, seed, count=8, population=20, options=GROWTH):
    """Populations under random fitness, after each generation."""
    evolution, random = (
        Evolution(space, population=population, seed=seed, settings=options),
        np.random.default_rng(seed),
    )
    for _ in range(count):
        evolution.advance(random.random(population))
        yield evolution


@few
@given(SPACES, SEEDS)
def test_no_innovation_number_has_two_meanings(space, seed):
    meaning = {}
    for evolution in generations(space, seed):
        for genome in evolution.population.genomes():
            for gene in genome.connections:
                ends = gene.source, gene.target
                assert meaning.setdefault(gene.innovation, ends) == ends
    assert len(meaning) > len(space.minimal())


@few
@given(SPACES, SEEDS)
def test_every_child_is_a_genome_that_a_network_can_have(space, seed):
    for evolution in generations(space, seed):
        for genome in evolution.population.genomes():
            assert Genome(space, genome.connections) == genome  # the constructor refuses all that is wrong
            assert np.all(np.diff(genome.genes["innovation"]) > 0)
            assert space.recurrent or not has_cycle(genome)


@few
@given(SPACES, SEEDS)
def test_children_add_up_to_the_population_and_have_a_species(space, seed):
    for evolution in generations(space, seed, population=17):
        count = evolution.species.counters[0]
        assert len(evolution.population.counts) == 17 and evolution.population.counts.min() > 0
        sizes = np.bincount(evolution.labels, minlength=count)
        np.testing.assert_array_equal(evolution.species.size[:count], sizes)
        assert sizes.sum() == 17 and sizes.min() > 0
        assert len(set(evolution.species.number[:count].tolist())) == count


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12), st.integers(0, 300))
def test_shares_divide_a_whole_number_by_largest_remainders(shares, total):
    counts = np.zeros(len(shares), np.int64)
    neat.divide(np.array(shares), total, counts)
    exact = np.array(shares) / sum(shares) * total if sum(shares) else np.full(len(shares), total / len(shares))
    assert counts.sum() == total and np.abs(counts - exact).max() < 1 + 1e-6


def parents(seed):
    """Two genomes of one late generation."""
    *_, last = generations(Space(2, 1), seed)
    return last.population.genome(0), last.population.genome(1)


def by_definition(first, second, options):
    """Equation 1, with sets."""
    a, b = ({gene.innovation: gene.weight for gene in genome.connections} for genome in (first, second))
    end = min(max(a), max(b))
    excess = sum(i > end for i in a.keys() ^ b.keys())
    disjoint = len(a.keys() ^ b.keys()) - excess
    n = 1 if max(len(a), len(b)) < options.small else max(len(a), len(b))
    difference = np.mean([abs(a[i] - b[i]) for i in a.keys() & b.keys()])
    return (options.excess * excess + options.disjoint * disjoint) / n + options.weights * difference


@few
@given(SEEDS)
def test_the_distance_is_the_equation_and_symmetric(seed):
    first, second = parents(seed)
    for options in (Settings(), Settings(excess=2.0, disjoint=0.5, weights=3.0, small=5)):
        expected = by_definition(first, second, options)
        assert distance(first, second, options) == pytest.approx(expected, abs=1e-12)
        assert distance(second, first, options) == distance(first, second, options)
        assert distance(first, first, options) == 0


@few
@given(SEEDS, SEEDS)
def test_a_genome_crossed_with_itself_is_itself(seed, draw):
    genome, _ = parents(seed)
    assert crossover(genome, genome, seed=draw, settings=Settings(disable=1)) == genome
    child = crossover(genome, genome, seed=draw)  # disabled genes may come back, nothing else
    back = child.genes["enabled"] & ~genome.genes["enabled"]
    assert [c._replace(enabled=c.enabled and not b) for c, b in zip(child.connections, back, strict=True)] == (
        genome.connections
    )


@few
@given(SEEDS, SEEDS)
def test_a_child_has_the_genes_of_the_better_parent(seed, draw):
    better, other = parents(seed)
    child = crossover(better, other, seed=draw)
    theirs = {gene.innovation: gene for gene in other.connections}
    for gene, mine in zip(child.connections, better.connections, strict=True):
        match = theirs.get(mine.innovation, mine)
        assert gene[:3] == mine[:3] and gene.weight in (mine.weight, match.weight)
        assert gene.enabled or not (mine.enabled and match.enabled)


def test_matching_genes_come_from_either_parent_equally_often():
    space = Space(1, 1)
    first, second = (Genome(space, [Connection(i, i, 2, True, w) for i in range(2)]) for w in (0.0, 1.0))
    weights = [gene.weight for seed in range(1000) for gene in crossover(first, second, seed=seed).connections]
    assert np.mean(weights) == pytest.approx(0.5, abs=0.04)  # 3.6 standard errors


def test_a_disabled_gene_stays_so_in_three_of_four_children():
    space = Space(1, 1)
    on = Genome(space, [Connection(0, 0, 2, True, 1.0), Connection(1, 1, 2, True, 1.0)])
    off = Genome(space, [Connection(0, 0, 2, False, 1.0), Connection(1, 1, 2, True, 1.0)])
    for pair in ((on, off), (off, on), (off, off)):
        disabled = [not crossover(*pair, seed=seed).connections[0].enabled for seed in range(1000)]
        assert np.mean(disabled) == pytest.approx(0.75, abs=0.05)


def test_a_child_never_loses_all_connections_to_an_output():
    space = Space(1, 1)
    first = Genome(space, [Connection(0, 0, 2, True, 1.0), Connection(1, 1, 2, False, 1.0)])
    second = Genome(space, [Connection(0, 0, 2, False, 1.0), Connection(1, 1, 2, True, 1.0)])
    children = [crossover(first, second, seed=seed, settings=Settings(disable=1)) for seed in range(20)]
    assert all(child.links > 0 for child in children)


def changed_by(options, population=400):
    """Each child with its parent, of a population that is one species without crossover: all begin alike."""
    options = options._replace(crossover=0.0, threshold=np.inf, champion=np.inf)
    evolution = Evolution(Space(2, 1), population=population, seed=3, settings=options)
    evolution.population.genes["weight"][:, :3] = [0.5, -0.25, 1.5]
    evolution.advance(np.ones(population))
    return evolution


def test_a_new_node_splits_a_connection_and_keeps_the_old_gene():
    evolution = changed_by(Settings(add_node=1, add_link=0, change_weights=0))
    splits = {0: 0.5, 1: -0.25}
    for genome in evolution.population.genomes():
        *old, into, out = genome.connections
        (lost,) = (gene for gene in old if not gene.enabled)
        assert (into.source, into.target, into.weight) == (lost.source, genome.hidden[0], 1.0)
        assert (out.source, out.target, out.weight) == (genome.hidden[0], 3, splits[lost.source])
    # the same split in one generation has the same numbers: two splits are possible, the bias is not split
    innovations = {tuple(genome.genes["innovation"][3:]) for genome in evolution.population.genomes()}
    assert innovations == {(3, 4), (5, 6)} and evolution.registry.counters.tolist() == [0, 2, 7, 6]


def test_the_next_generation_gives_new_numbers_to_the_same_innovation():
    evolution = changed_by(Settings(add_node=1, add_link=0, change_weights=0))
    evolution.advance(np.ones(400))
    assert evolution.registry.counters[2] > 7 and evolution.registry.counters[1] >= 2


def test_a_new_node_changes_what_the_network_computes():
    genome = Genome(Space(1, 1), [Connection(0, 0, 2, True, 1.0), Connection(1, 1, 2, True, 0.0)])
    first, bias = genome.connections
    new = Connection(2, 0, 3, True, 1.0), Connection(3, 3, 2, True, 1.0)
    split = Genome(genome.space, [first._replace(enabled=False), bias, *new])
    assert abs(split.network()([[0.7]]) - genome.network()([[0.7]]))[0, 0] > 1e-3  # a morphism would change nothing


def test_weights_change_as_often_as_the_settings_say():
    options = Settings(add_node=0, add_link=0, change_weights=0.8, perturb=1.0, step=0.1)
    weights = changed_by(options, 2000).population.genes["weight"][:, :3]
    moved = np.abs(weights - [0.5, -0.25, 1.5])
    assert (moved.max(1) > 0).mean() == pytest.approx(0.8, abs=0.04) and moved.max() <= 0.1
    drawn = changed_by(options._replace(perturb=0.0, change_weights=1.0)).population.genes["weight"][:, :3]
    assert np.abs(drawn).max() <= 0.1
    capped = changed_by(options._replace(step=50.0, cap=2.0)).population.genes["weight"][:, :3]
    assert np.abs(capped).max() == 2.0


def test_species_are_the_first_that_a_genome_fits():
    evolution = Evolution(Space(2, 1), population=60, seed=0, settings=GROWTH)
    random = np.random.default_rng(0)
    for _ in range(8):
        count = int(evolution.species.counters[0])
        rows, counts = evolution.species.genes[:count].copy(), evolution.species.counts[:count].copy()
        numbers = evolution.species.number[:count].tolist()
        known = [Genome.of_genes(Space(2, 1), row[:n]) for row, n in zip(rows, counts, strict=True)]
        evolution.advance(random.random(60))
        new = int(evolution.species.counters[1]) - (max(numbers) + 1)
        assert new >= 0
        for genome, label in zip(evolution.population.genomes(), evolution.labels, strict=True):
            fits = [n for n, one in zip(numbers, known, strict=True) if distance(genome, one) < 3]
            number = int(evolution.species.number[label])
            assert number == fits[0] if fits else number not in numbers


def test_the_best_of_a_large_species_goes_on_unchanged():
    evolution = Evolution(Space(2, 1), population=50, seed=1)
    for _ in range(20):
        fitness, _ = Xor().evaluate(evolution.population)
        label = evolution.labels[fitness.argmax()]
        champion, large = evolution.population.genome(int(fitness.argmax())), evolution.species.size[label] > 5
        evolution.advance(fitness)
        assert not large or champion in evolution.population.genomes()


def shared_out(fitness, species_of, generation, improved, record=(9.0, 1.0)):
    """The children of each species, if all improved last in the generations given."""
    count = max(species_of) + 1
    evolution = Evolution(Space(2, 1), population=len(fitness), seed=0)
    kept, labels = evolution.species, np.array(species_of)
    kept.counters[0], kept.best[:count], kept.improved[:count] = count, 9.0, improved
    kept.size[:count] = np.bincount(labels)
    neat.share_out(np.array(fitness), labels, kept, np.array(record), 15.0, 20.0, generation)
    return kept.children[:count].tolist()


def test_children_are_shared_out_by_mean_fitness():
    fitness, labels = [4.0, 2.0, 3.0, 1.0, 1.0, 1.0], [0, 0, 1, 2, 2, 2]
    assert shared_out(fitness, labels, 5, [5, 5, 5]) == [3, 2, 1]  # means of 3, 3 and 1: 2.57, 2.57, 0.86
    assert sum(shared_out(fitness, labels, 5, [5, 5, 5])) == 6


def test_the_largest_fitness_that_a_float_holds_is_right():
    largest = np.finfo(float).max
    assert shared_out([largest] * 6, [0, 0, 1, 2, 2, 2], 5, [5, 5, 5]) == [2, 2, 2]
    assert shared_out([0.0] * 6, [0, 0, 1, 2, 2, 2], 5, [5, 5, 5]) == [2, 2, 2]
    history = neat.search(Space(1, 1), lambda network: largest, budget=3, seed=0, population=10)
    assert history.rows[-1].best == largest


def test_a_species_that_does_not_improve_has_no_children():
    fitness, labels = [4.0, 2.0, 3.0, 1.0, 1.0, 1.0], [0, 0, 1, 2, 2, 2]
    assert shared_out(fitness, labels, 20, [5, 5, 6]) == [5, 0, 1]  # the first has the best of all: 4.5, 1.5
    assert shared_out(fitness, labels, 20, [5, 5, 6], record=(9.0, 0.0)) == [3, 3, 0]  # nothing improves: the best two


def test_xor_is_solved_in_all_of_forty_searches_as_fast_as_published():
    histories = [neat.search(Space(2, 1), Xor(), budget=200, seed=seed) for seed in range(40)]
    assert all(history.solved for history in histories)
    assert np.mean([len(history.rows) for history in histories]) <= 36  # 32 in the paper
    for history in histories:
        outputs = history.winner.network()(CASES)[:, 0]
        assert ((outputs > 0.5) == [False, True, True, False]).all() and history.winner.hidden


@pytest.mark.parametrize(
    ("options", "most"),
    [({"add_node": 0, "add_link": 0}, 0), ({"threshold": np.inf}, 4)],  # of 20; without species, luck alone helps
)
def test_xor_needs_growth_and_species(options, most):
    histories = [
        neat.search(Space(2, 1), Xor(), budget=60, seed=seed, settings=Settings(**options)) for seed in range(20)
    ]
    assert sum(history.solved for history in histories) <= most


def test_poles_without_velocities_take_fewer_evaluations_than_the_published_rivals():
    task, options = HiddenVelocities(), {"budget": 200, "population": 1000, "settings": neat.HIDDEN_VELOCITIES}
    histories = [neat.search(task.space, task, seed=seed, **options) for seed in range(3)]
    assert all(history.solved and task.passes(history.winner) for history in histories)
    assert max(history.evaluations for history in histories) < 169_466  # enforced subpopulations, in the paper's table


def test_a_candidate_is_the_best_of_a_species_that_improved():
    evolution, random = Evolution(Space(2, 1), population=60, seed=0, settings=GROWTH), np.random.default_rng(0)
    tested = {}  # species: its best fitness ever when it was tested last
    best_ever = {}
    for _ in range(25):
        fitness = random.random(60) * 0.97**evolution.number  # so that some species never improve
        numbers = evolution.species.number[evolution.labels]
        best = {n: fitness[numbers == n].max() for n in set(numbers.tolist())}
        for number, value in best.items():
            if value > best_ever.get(number, -1):
                tested.pop(number, None)
        free = [n for n in best if n not in tested] or list(best)
        expected = max(free, key=best.get)
        chosen = evolution.candidate(fitness)
        assert numbers[chosen] == expected and fitness[chosen] == best[expected]
        tested[expected] = True
        best_ever |= {n: max(value, best_ever.get(n, -1)) for n, value in best.items()}
        evolution.advance(fitness)


def test_a_network_that_failed_is_not_tested_again():
    evolution = Evolution(Space(2, 1), population=30, seed=0, settings=PAPER._replace(threshold=np.inf))
    fitness = np.linspace(0, 1, 30)
    assert evolution.candidate(fitness) == evolution.candidate(fitness) == 29  # one species: there is no other
    evolution = Evolution(Space(2, 1), population=30, seed=0, settings=PAPER._replace(threshold=0.1))
    assert int(evolution.species.counters[0]) > 2
    chosen = [evolution.candidate(fitness) for _ in range(3)]
    evolution.species.best[:] = 1.0  # none is better than ever
    chosen.append(evolution.candidate(fitness))
    assert len({int(evolution.labels[i]) for i in chosen}) >= 2 and chosen[0] == 29


def test_a_task_with_a_test_is_solved_by_a_network_that_passes():
    class Large:
        """Passed by a genome of six genes or more; what ``evaluate`` calls a winner does not count."""

        def evaluate(self, population):
            return population.counts.astype(float), 0

        def passes(self, genome):
            return len(genome.genes) >= 6

    history = neat.search(Space(2, 1), Large(), budget=50, seed=0, population=30)
    assert history.solved and len(history.winner.genes) >= 6 and len(history.rows) > 1


def test_two_poles_with_velocities_are_balanced():
    task = DoublePole()
    history = neat.search(task.space, task, budget=100, seed=1)
    assert history.solved and history.rows[-1].best == 100_000


def test_fixed_hidden_nodes_stay_without_growth():
    space = replace(DoublePole().space, hidden=10)
    task = DoublePole(steps=20)
    history = neat.search(space, task, budget=3, seed=0, settings=Settings(add_node=0, add_link=0))
    assert all(len(row.champion.genes) == 81 == row.genes for row in history.rows)


def test_a_history_has_a_row_for_each_generation_and_counts_bytes():
    history = neat.search(Space(2, 1), lambda network: 1.0, budget=30, seed=0)
    assert not history.solved and [row.number for row in history.rows] == list(range(1, 31))
    assert history.evaluations == 30 * 150 and {row.best for row in history.rows} == {1.0}
    for row in history.rows:
        assert row.species[:, 1].sum() == 150 and row.genome_bytes == round(row.genes * 150) * 17
        share = row.history_bytes / row.genome_bytes
        assert 4 / 17 <= share < 0.3
    assert history.rows[-1].genes > history.rows[0].genes == 3


def test_a_search_repeats_itself_and_moves_no_other_draw():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    task = Scored(lambda network: network(CASES).mean(), goal=0.999)
    runs = [neat.search(Space(2, 2), task, budget=15, seed=4, population=12) for _ in range(2)]
    assert (np.random.get_state()[1] == before).all()
    assert [row.best for row in runs[0].rows] == [row.best for row in runs[1].rows]
    assert runs[0].winner == runs[1].winner and runs[0].solved
    assert runs[0].rows[0].champion != neat.search(Space(2, 2), task, budget=1, seed=5, population=12).rows[0].champion


def test_genomes_grow_beyond_the_room_that_they_began_with():
    *_, last = generations(Space(1, 1), 0, count=60, population=6, options=Settings(add_node=1, add_link=1))
    assert last.population.counts.max() > 40
    for genome in last.population.genomes():
        assert Genome(genome.space, genome.connections) == genome


def test_two_networks_in_as_many_species_are_a_population():
    options = Settings(threshold=0.0, add_node=0.5, add_link=0.5)
    for evolution in generations(Space(1, 1), 0, population=2, options=options):
        assert evolution.species.counters[0] == 2 and evolution.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"population": 1}, "2 networks or more, not 1"),
        ({"population": 0}, "2 networks or more, not 0"),
        ({"budget": 0}, "budget must be 1 generation or more, not 0"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"settings": Settings(crossover=1.5)}, "crossover must be between 0 and 1, not 1.5"),
        ({"settings": Settings(step=-1.0)}, "step must be 0 or more, not -1"),
        ({"settings": Settings(threshold=np.nan)}, "threshold must be 0 or more, not nan"),
        ({"space": Space(3, 1)}, "2 inputs and 1 outputs, not 3 and 1"),
        ({"evaluate": lambda network: np.nan}, "finite and not negative, not nan"),
        ({"evaluate": lambda network: np.inf}, "finite and not negative, not inf"),
        ({"evaluate": lambda network: -0.5}, "finite and not negative, not -0.5"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, says):
    arguments = {"space": Space(2, 1), "evaluate": Xor(), "budget": 2, "seed": 0, "population": 4} | change
    with pytest.raises(ValueError, match=says):
        neat.search(**arguments)


def test_genomes_of_two_spaces_are_not_compared():
    first, second = (Genome.of_genes(space, space.minimal()) for space in (Space(2, 1), Space(2, 2)))
    for call in (lambda: distance(first, second), lambda: crossover(first, second, seed=0)):
        with pytest.raises(ValueError, match="one space"):
            call()
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        crossover(first, first, seed=-1)


def test_a_fitness_for_each_network_is_asked_for():
    evolution = Evolution(Space(2, 1), population=3, seed=0)
    with pytest.raises(ValueError, match="one number for each of 3 networks"):
        evolution.row(np.ones(2))


def test_genoxide_computes_the_same_network():
    peer = pytest.importorskip("genoxide")
    weights = [0.5, -0.5, 0.25]
    theirs = peer.neat.Network.fully_connected(2, 1, weights).feed_forward()
    ours = Genome(Space(2, 1), [Connection(i, i, 3, True, w) for i, w in enumerate(weights)]).network()
    for case in CASES:
        assert ours([case])[0, 0] == pytest.approx(theirs.activate(list(case))[0], abs=1e-12)


def test_neat_python_finds_matching_genes_as_far_apart():
    peer = pytest.importorskip("neat")
    gene = peer.DefaultConnectionGene((0, 3), innovation=0)
    other = peer.DefaultConnectionGene((0, 3), innovation=0)
    gene.weight, gene.enabled, other.weight, other.enabled = 0.25, True, -0.5, True
    ours = [Genome(Space(2, 1), [Connection(0, 0, 3, True, w)]) for w in (0.25, -0.5)]
    config = type("config", (), {"compatibility_weight_coefficient": 0.4})
    assert distance(*ours) == pytest.approx(gene.distance(other, config))
