"""Competing conventions: Figure 8 by enumeration, the counts by brute force, and two ways out on real networks."""

from fractions import Fraction
from itertools import permutations, product

import pytest
import torch
from given import seeded
from torch import nn

from lib import training
from lib.datasets import load
from lib.neuroevolution import neat
from lib.neuroevolution.competing_conventions import (
    canonical,
    cross,
    cross_marked,
    lost_units,
    units_of,
    whole_children,
    with_units,
)
from lib.neuroevolution.shared.genomes import Genome, Space


def network(activation=nn.Tanh, hidden=6, dtype=torch.float64):
    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(5, hidden), activation(), nn.Linear(hidden, 4))

    return seeded(build, 3).to(dtype)


def images(n=40, dtype=torch.float64):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(0)).to(dtype)


def shuffled(units, seed=1):
    return units[torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))]


def children(n):
    """All children of [0, ..., n - 1] with each of its orders, cut at each place."""
    first = torch.arange(n)
    for order, cut in product(permutations(range(n)), range(1, n)):
        yield cut, cross(first, torch.tensor(order), cut)


def test_figure_8_loses_one_unit_and_doubles_another():
    names = "ABC"
    said = ["".join(names[i] for i in child) for child in cross(torch.tensor([0, 1, 2]), torch.tensor([2, 1, 0]), 2)]
    assert said == ["ABA", "CBC"]


@pytest.mark.parametrize(("n", "whole", "all_"), [(2, 1, 2), (3, 4, 12), (4, 16, 72), (5, 72, 480)])
def test_as_many_children_are_whole_as_by_enumeration(n, whole, all_):
    made = [(cut, [len(set(child.tolist())) == n for child in pair]) for cut, pair in children(n)]
    assert (sum(both[0] for _, both in made), len(made)) == (whole, all_)
    assert all(first == second for _, (first, second) in made)  # both children are whole, or none
    assert whole_children(n) == Fraction(whole, all_)
    for cut in range(1, n):
        at = [both[0] for c, both in made if c == cut]
        assert whole_children(n, cut) == Fraction(sum(at), len(at))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_share_of_lost_units_is_that_of_enumeration(n):
    lost = [(cut, n - len(set(pair[0].tolist()))) for cut, pair in children(n)]
    assert lost_units(n) == Fraction(sum(missing for _, missing in lost), n * len(lost))
    for cut in range(1, n):
        at = [missing for c, missing in lost if c == cut]
        assert lost_units(n, cut) == Fraction(sum(at), n * len(at))


def test_a_quarter_of_sixteen_units_is_lost_in_the_middle():
    random = torch.Generator().manual_seed(0)
    first = torch.arange(16)
    kept = [len(cross(first, torch.randperm(16, generator=random), 8)[0].unique()) for _ in range(2000)]
    assert 1 - sum(kept) / (16 * 2000) == pytest.approx(float(lost_units(16, 8)), abs=0.006)
    assert lost_units(16, 8) == Fraction(1, 4)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.Sigmoid])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_in_any_order_of_units_compute_the_same(activation, dtype):
    model = network(activation, dtype=dtype)
    other = with_units(model, shuffled(units_of(model)))
    torch.testing.assert_close(other(images(dtype=dtype)), model(images(dtype=dtype)), atol=1e-5, rtol=1e-5)
    assert not torch.equal(other[1].weight, model[1].weight) and other[1].weight.dtype == dtype


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_the_canonical_encoding_computes_the_same(activation):
    model = network(activation)
    torch.testing.assert_close(with_units(model, canonical(model))(images()), model(images()), atol=1e-12, rtol=1e-12)
    again = with_units(model, canonical(model))
    torch.testing.assert_close(canonical(again), canonical(model), atol=1e-12, rtol=1e-12)


def test_all_orders_and_signs_have_one_canonical_encoding():
    model = network(hidden=3)
    units, one = units_of(model), canonical(model)
    for order, signs in product(permutations(range(3)), product((-1.0, 1.0), repeat=3)):
        other = with_units(model, units[list(order)] * torch.tensor(signs, dtype=units.dtype)[:, None])
        torch.testing.assert_close(other(images()), model(images()), atol=1e-12, rtol=1e-12)
        assert torch.equal(canonical(other), one)  # 3! 2^3 = 48 encodings


def test_all_sizes_of_relu_units_have_one_canonical_encoding():
    model = network(nn.ReLU)
    units = units_of(model)
    size = torch.tensor([0.5, 2.0, 4.0, 1.0, 0.25, 8.0], dtype=units.dtype)[:, None]
    other = with_units(model, shuffled(torch.cat([units[:, :6] * size, units[:, 6:] / size], 1)))
    torch.testing.assert_close(other(images()), model(images()), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(canonical(other), canonical(model), atol=1e-13, rtol=1e-13)


def test_canonical_parents_have_their_own_encoding_as_child():
    model = network()
    twin = with_units(model, shuffled(units_of(model)))
    for cut in range(1, 6):
        for child in cross(canonical(model), canonical(twin), cut):
            assert torch.equal(child, canonical(model))


def test_a_tanh_unit_without_bias_is_turned_by_its_first_weight():
    model = network()
    with torch.no_grad():
        model[1].bias.zero_()
        model[1].weight[:, 0] = torch.tensor([0.0, -1.0, 2.0, -3.0, 0.0, 1.0])
    flipped = with_units(model, -units_of(model))
    assert torch.equal(canonical(flipped), canonical(model))
    assert (canonical(model)[:, 0] >= 0).all()


def test_marks_bring_every_unit_to_its_place():
    units = units_of(network())
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    marks = torch.tensor([40, 7, 19, 3, 88, 21])
    for seed in range(10):
        assert torch.equal(cross_marked(units, units[order], marks, marks[order], seed=seed), units)


def test_marked_units_come_from_either_parent_and_others_stay():
    first, second = torch.zeros(3), torch.ones(4)
    made = [
        cross_marked(first, second, torch.tensor([1, 2, 3]), torch.tensor([9, 3, 8, 1]), seed=seed)
        for seed in range(400)
    ]
    mean = torch.stack(made).mean(0)
    assert mean[1] == 0 and mean[[0, 2]].sub(0.5).abs().max() < 0.1


def test_innovation_numbers_are_marks_that_avoid_the_problem():
    space = Space(1, 1, hidden=3)
    genome = Genome.of_genes(space, space.minimal())
    genome.genes["weight"] = torch.arange(len(genome.genes)).numpy()
    shown = Genome(space, genome.connections[::-1])  # the order of genes is no part of the encoding
    assert all(neat.crossover(genome, shown, seed=seed) == genome for seed in range(5))


def test_children_of_one_network_in_two_orders_read_digits_worse():
    dataset = load("digits")
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.Tanh(), nn.Linear(8, 10)))
    training.fit(model, dataset.train, epochs=15, seed=0, learning_rate=0.1)
    images, labels = dataset.validation.images, dataset.validation.labels

    def accuracy(units):
        return 100 * float((with_units(model, units)(images).argmax(1) == labels).double().mean())

    units = units_of(model)
    naive = [accuracy(child) for seed in range(10) for child in cross(units, shuffled(units, seed), 4)]
    assert accuracy(units) > 90 and sum(naive) / len(naive) < accuracy(units) - 8
    twin = with_units(model, shuffled(units))
    assert accuracy(cross(canonical(model), canonical(twin), 4)[0]) == pytest.approx(accuracy(units), abs=0.5)


@pytest.mark.parametrize("cut", [0, 3, -1])
def test_cuts_outside_the_units_are_refused(cut):
    with pytest.raises(ValueError, match=f"cut must be between 1 and 2 for 3 units, not {cut}"):
        cross(torch.arange(3), torch.arange(3), cut)
    with pytest.raises(ValueError, match="cut must be between 1 and 2"):
        whole_children(3, cut)


def test_parents_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        cross(torch.arange(3), torch.arange(4), 1)
    with pytest.raises(ValueError, match="units must be 2 or more"):
        lost_units(1)


@pytest.mark.parametrize("marks", [[1, 1, 2], [1, 2]])
def test_marks_that_are_there_twice_are_refused(marks):
    with pytest.raises(ValueError, match="3 different marks"):
        cross_marked(torch.zeros(3), torch.zeros(3), torch.arange(3), torch.tensor(marks), seed=0)


def test_marked_units_of_two_types_are_refused():
    with pytest.raises(ValueError, match="one shape and type"):
        cross_marked(torch.zeros(3), torch.zeros(3).double(), torch.arange(3), torch.arange(3), seed=0)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Sequential(nn.Linear(2, 3)), "two linear layers"),
        (nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2), nn.Linear(2, 2)), "two linear layers"),
        (nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 2)), "no other"),
        (nn.Sequential(nn.Linear(2, 3, bias=False), nn.Tanh(), nn.Linear(3, 2)), "biases"),
        (nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(4, 2)), "fed by the first"),
        (nn.Conv2d(1, 1, 1), "two linear layers"),
    ],
)
def test_networks_of_another_form_are_refused(model, says):
    with pytest.raises(ValueError, match=says):
        units_of(model)


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.GELU])
def test_units_without_a_known_unique_encoding_are_refused(activation):
    with pytest.raises(ValueError, match=r"nn\.Tanh or nn\.ReLU"):
        canonical(network(activation))


def test_broken_weights_and_shapes_are_refused():
    model = network(nn.ReLU)
    with pytest.raises(ValueError, match=r"\(6, 10\), not \(5, 10\)"):
        with_units(model, units_of(model)[:5])
    with torch.no_grad():
        model[1].weight[2], model[1].bias[2] = 0.0, 0.0
    with pytest.raises(ValueError, match="all zero"):
        canonical(model)
    with torch.no_grad():
        model[3].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        units_of(model)
