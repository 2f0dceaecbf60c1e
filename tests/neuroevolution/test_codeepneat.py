"""CoDeepNEAT: credit, species that blueprints point to, the same history from a seed, planted fitness, its rival."""

import math

import joblib
import numpy as np
import pytest
import torch
from scipy import stats

from lib import datasets
from lib.datasets import Split
from lib.neuroevolution import codeepneat
from lib.neuroevolution.codeepneat import Evaluation, credit, random_search, repointed, search
from lib.neuroevolution.shared.accuracy import Accuracy
from lib.neuroevolution.shared.assembly import Candidate, Pointer, Space, Training
from lib.neuroevolution.shared.graphs import OUTPUT, Graph, Link
from lib.neuroevolution.shared.populations import Settings

SPACE = Space()


def planted(candidate: Candidate) -> float:
    """How much of what is wanted: up to six layers of 3 x 3 and 32 filters, without dropout, trained fast."""
    layers = [step.layer for step in candidate.steps() if step.layer]
    wanted = [(v.kernel == 3) + (v.filters == 32) + (v.dropout == 0) for v in layers]
    return sum(sorted(wanted)[-6:]) + (candidate.training.learning_rate == 0.1)


def same(a: codeepneat.History, b: codeepneat.History) -> bool:
    fields = ("blueprint_fitness", "module_fitness", "blueprint_species", "module_species")
    alike = all(
        (one.blueprints, one.modules) == (two.blueprints, two.modules)
        and all(np.array_equal(getattr(one, f), getattr(two, f), equal_nan=True) for f in fields)
        for one, two in zip(a.generations, b.generations, strict=True)
    )
    return a.rows == b.rows and alike


def test_credit_is_the_mean_over_networks_worked_out_by_hand():
    rows = [
        Evaluation(0, 0, {7: 2, 9: 0}, None, 1.0),
        Evaluation(0, 1, {7: 2}, None, 4.0),
        Evaluation(0, 0, {9: 0}, None, 6.0),
    ]
    blueprints, modules = credit(rows, 2, 4)
    np.testing.assert_array_equal(blueprints, [3.5, 4.0])
    np.testing.assert_array_equal(modules, [3.5, np.nan, 2.5, np.nan])


def test_credit_in_a_search_is_the_mean_of_its_rows():
    history = search(SPACE, planted, budget=36, seed=3)
    for number, generation in enumerate(history.generations):
        rows = [row for row in history.rows if row.generation == number]
        for place in range(5):
            mean = np.mean([row.fitness for row in rows if row.blueprint == place])
            assert generation.blueprint_fitness[place] == pytest.approx(mean)
        for place in range(8):
            part = [row.fitness for row in rows if place in row.modules.values()]
            known = generation.module_fitness[place]
            assert known == pytest.approx(np.mean(part)) if part else math.isnan(known)


def test_networks_are_made_of_blueprints_in_turn_and_modules_of_their_species():
    history = search(SPACE, planted, budget=60, seed=1, settings=Settings(threshold=0.2))
    for number, generation in enumerate(history.generations):
        rows = [row for row in history.rows if row.generation == number]
        assert [row.blueprint for row in rows] == [n % 5 for n in range(12)]
        for row in rows:
            assert row.candidate.blueprint == generation.blueprints[row.blueprint]
            pointers = {v.species for n, v in row.candidate.blueprint.nodes.items() if n != OUTPUT}
            assert pointers == set(row.modules) == set(row.candidate.modules)
            for species, place in row.modules.items():
                assert generation.module_species[place] == species
                assert row.candidate.modules[species] == generation.modules[place]


def test_populations_keep_their_sizes_and_pointers_stay_valid():
    died = False
    for seed in range(3):
        history = search(SPACE, planted, budget=96, seed=seed, settings=Settings(threshold=0.3))
        before = set()
        for generation in history.generations:
            assert len(generation.blueprints) == 5 and len(generation.modules) == 8
            living = set(generation.module_species.tolist())
            for blueprint in generation.blueprints:
                assert {v.species for n, v in blueprint.nodes.items() if n != OUTPUT} <= living
            died, before = died or bool(before - living), living
    assert died  # so some pointers were to species that died


def test_pointers_to_dead_species_move_to_living_ones_equally_often():
    links = (Link(1, 0, 2), Link(2, 2, 3), Link(3, 3, 1))
    blueprint = Graph({1: Training(0.1, 0.9), 2: Pointer(4), 3: Pointer(9)}, links)
    random, moved = np.random.default_rng(0), []
    for _ in range(600):
        made = repointed(blueprint, [2, 5, 9], random)
        assert made.nodes[3] == Pointer(9) and made.nodes[1] == Training(0.1, 0.9) and made.links == links
        moved.append(made.nodes[2].species)
    assert blueprint.nodes[2] == Pointer(4)
    for species in (2, 5, 9):
        assert abs(moved.count(species) / 600 - 1 / 3) < 4 * (2 / 9 / 600) ** 0.5


def test_markings_mean_the_same_in_all_graphs_of_a_search():
    history = search(SPACE, planted, budget=120, seed=0)
    for kind in ("blueprints", "modules"):
        links = {}
        for generation in history.generations:
            for graph in getattr(generation, kind):
                for link in graph.links:
                    ends = (link.source, link.target)
                    assert links.setdefault(link.number, ends) == ends
        assert len(links) == len(set(links.values())) > 5


@pytest.mark.parametrize("method", [search, random_search])
def test_a_seed_gives_one_history_however_many_jobs(method):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = method(SPACE, planted, budget=30, seed=4)
    with joblib.parallel_config(backend="threading"):
        assert same(method(SPACE, planted, budget=30, seed=4, jobs=2), first)
    assert not same(method(SPACE, planted, budget=30, seed=5), first)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


def test_evolution_beats_its_first_population_on_a_planted_fitness():
    gains = []
    for seed in range(12):
        history = search(SPACE, planted, budget=60, seed=seed)
        gains.append(np.mean(history.fitness(-1)) - np.mean(history.fitness(0)))
    low, _ = stats.t.interval(0.99, 11, np.mean(gains), stats.sem(gains))
    assert low > 2


def test_evolution_selects_values_without_growing():
    still, gains = Settings(add_node=0, add_link=0), []
    for seed in range(12):
        history = search(SPACE, planted, budget=96, seed=seed, settings=still)
        assert {len(g.nodes) for generation in history.generations for g in generation.modules} == {2}
        gains.append(np.mean(history.fitness(-1)) - np.mean(history.fitness(0)))
    assert stats.t.interval(0.99, 11, np.mean(gains), stats.sem(gains))[0] > 0.5
    constant = [search(SPACE, lambda _: 1.0, budget=96, seed=seed, settings=still) for seed in range(12)]
    drift = [np.mean([planted(r.candidate) for r in h.rows if r.generation == 7]) for h in constant]
    start = [np.mean([planted(r.candidate) for r in h.rows if r.generation == 0]) for h in constant]
    assert abs(np.mean(drift) - np.mean(start)) < np.mean(gains) / 2  # without a fitness nothing is selected


def test_random_search_trains_as_many_networks_of_the_same_space():
    calls = {"search": 0, "random": 0}

    def counting(name):
        def evaluate(candidate):
            calls[name] += 1
            return planted(candidate)

        return evaluate

    evolved = search(SPACE, counting("search"), budget=40, seed=0)
    rival = random_search(SPACE, counting("random"), budget=40, seed=0)
    assert calls == {"search": 40, "random": 40} == {"search": len(evolved.rows), "random": len(rival.rows)}
    assert [len(evolved.fitness(n)) for n in range(4)] == [12, 12, 12, 4] and len(rival.fitness(0)) == 40
    assert max(len(r.candidate.blueprint.nodes) for r in rival.rows) > 2
    for row in rival.rows:
        species = {v.species for n, v in row.candidate.blueprint.nodes.items() if n != OUTPUT}
        assert species <= {0, 1} and species == set(row.candidate.modules)
        for module in row.candidate.modules.values():
            layers = [values for n, values in module.nodes.items() if n != OUTPUT]
            assert all(v.filters in SPACE.filters and v.kernel in SPACE.kernels for v in layers)


def test_random_graphs_have_up_to_the_given_number_of_mutations():
    grow = Settings(add_node=1, add_link=0)
    sizes = [
        len(row.candidate.blueprint.nodes) - 2
        for row in random_search(SPACE, planted, budget=300, seed=0, growth=2, settings=grow).rows
    ]
    for count in range(3):
        assert abs(sizes.count(count) / 300 - 1 / 3) < 4 * (2 / 9 / 300) ** 0.5
    still = random_search(SPACE, planted, budget=9, seed=0, growth=0)
    assert all(len(row.candidate.steps()) == 1 for row in still.rows)


def test_the_best_is_the_first_of_the_largest():
    history = search(SPACE, planted, budget=36, seed=0)
    assert history.best.fitness == max(row.fitness for row in history.rows)
    assert history.fitness(-1) == history.fitness(2) and len(history.fitness(-1)) == 12


def test_networks_of_a_search_are_trained_on_digits():
    digits = datasets.load("digits")
    small = [Split(s.images[:300, :, 2::3, 2::3], s.labels[:300]) for s in (digits.train, digits.validation)]
    space = Space(filters=(4, 8), dropouts=(0.0,))
    judge = Accuracy(*small, classes=10, epochs=2)
    history = search(space, judge, budget=6, seed=0, blueprints=2, modules=3, networks=3)
    assert history.best.fitness > 40  # a guess is right in ten of a hundred
    assert judge(history.best.candidate) == history.best.fitness


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 4}, "budget must be 5 or more networks, not 4"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        (
            {"blueprints": 0},
            "blueprints and modules must be 1 or more, and networks at least as many as blueprints, not 0, 8",
        ),
        ({"modules": 0}, "blueprints and modules must be 1 or more"),
        ({"networks": 4}, "networks at least as many as blueprints, not 5, 8 and 4"),
    ],
)
def test_searches_that_make_no_sense_are_refused(options, message):
    def never(candidate):
        raise AssertionError("nothing is evaluated")

    with pytest.raises(ValueError, match=message):
        search(SPACE, never, **({"budget": 20, "seed": 0} | options))


def test_random_searches_that_make_no_sense_are_refused():
    for options, message in (({"budget": 0}, "1 or more networks"), ({"growth": -1}, "growth must be 0 or more")):
        with pytest.raises(ValueError, match=message):
            random_search(SPACE, planted, **({"budget": 5, "seed": 0} | options))


@pytest.mark.parametrize("method", [search, random_search])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_fitness_that_is_negative_or_not_finite_is_refused(method, value):
    with pytest.raises(ValueError, match="the fitness of a network must be finite and not negative, not"):
        method(SPACE, lambda candidate: value, budget=12, seed=0)
