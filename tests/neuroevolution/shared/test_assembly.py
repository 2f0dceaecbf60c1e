"""Networks from blueprints and modules: shapes, parameters, repeated modules, sizes that differ, refusals."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from given import generator
from torch import nn

from lib import measure
from lib.neuroevolution.shared import graphs
from lib.neuroevolution.shared.assembly import (
    Candidate,
    Layer,
    Nothing,
    Pointer,
    Space,
    Training,
    merged,
)
from lib.neuroevolution.shared.graphs import INPUT, OUTPUT, Graph, Link, Markings
from lib.neuroevolution.shared.populations import Settings, mutated

CHAIN = (Link(1, 0, 2), Link(2, 2, 1))


def module(*layers: Layer) -> Graph:
    """Layers one after the other."""
    nodes = [INPUT, *range(2, 2 + len(layers)), OUTPUT]
    links = [Link(n, a, b) for n, (a, b) in enumerate(pairwise(nodes))]
    return Graph({OUTPUT: Nothing(), **dict(enumerate(layers, 2))}, tuple(links))


def blueprint(*species: int) -> Graph:
    """Pointers one after the other."""
    nodes = [INPUT, *range(2, 2 + len(species)), OUTPUT]
    links = [Link(n, a, b) for n, (a, b) in enumerate(pairwise(nodes))]
    return Graph({OUTPUT: Training(0.1, 0.9), **{n: Pointer(s) for n, s in enumerate(species, 2)}}, tuple(links))


def drawn(seed: int, mutations: int = 8) -> Candidate:
    """A candidate whose graphs have grown at random."""
    random, space, settings = np.random.default_rng(seed), Space(), Settings(add_node=0.4, add_link=0.4)

    def grown(choices) -> Graph:
        markings = Markings()
        graph = graphs.minimal(choices, markings, random)
        for _ in range(mutations):
            graph = mutated(graph, choices, markings, settings, random)
        return graph

    return Candidate(grown(space.of_blueprints(range(3))), {s: grown(space.of_modules()) for s in range(3)})


def by_recursion(candidate: Candidate, shape: tuple[int, int, int], classes: int) -> tuple[tuple[int, int, int], int]:
    """The size of the last image and the number of parameters, from the definition and not from the steps."""
    counted = 0

    def of(graph: Graph, node: int, start: tuple[int, int, int], known: dict) -> tuple[int, int, int]:
        nonlocal counted
        if node == INPUT:
            return start
        if node in known:
            return known[node]
        sizes = np.array([of(graph, source, start, known) for source in graph.sources(node)])
        channels, height, width = int(sizes[:, 0].max()), int(sizes[:, 1].min()), int(sizes[:, 2].min())
        content = graph.nodes[node]
        if isinstance(content, Pointer):
            inner = candidate.modules[content.species]
            known[node] = of(inner, OUTPUT, (channels, height, width), {})
        elif isinstance(content, Layer):
            counted += channels * content.filters * content.kernel**2 + 2 * content.filters
            half = content.pool and min(height, width) >= 8
            known[node] = (content.filters, height // 2, width // 2) if half else (content.filters, height, width)
        else:
            known[node] = (channels, height, width)
        return known[node]

    size = of(candidate.blueprint, OUTPUT, shape, {})
    return size, counted + (size[0] * min(4, size[1]) * min(4, size[2]) + 1) * classes


@pytest.mark.parametrize("seed", range(12))
def test_assembled_networks_have_the_sizes_and_parameters_of_their_graphs(seed):
    candidate, shape = drawn(seed), (3, 17, 8)
    network = candidate.network(shape, classes=4, seed=0).eval()
    size, parameters = by_recursion(candidate, shape, classes=4)
    assert network.sizes[-1] == size and measure.parameters(network) == parameters
    seen = []
    for layer in network.layers.values():
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(tuple(output.shape[1:])))
    assert network(torch.rand(2, *shape)).shape == (2, 4)
    assert seen == [network.sizes[int(number)] for number in network.layers]


def test_a_chain_computes_what_the_same_layers_in_sequence_do():
    layers = (Layer(6, 3, True, 0.0), Layer(5, 1, False, 0.5))
    candidate = Candidate(blueprint(4, 4), {4: module(*layers)})
    network = candidate.network((2, 16, 16), classes=3, seed=1).eval()
    blocks = [part for number in ("1", "2", "3", "4") for part in network.layers[number]]
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout] * 2
    assert [type(part) for part in blocks] == kinds
    x = torch.rand(5, 2, 16, 16, generator=generator())
    expected = network.classifier(nn.Sequential(*blocks)(x).flatten(1))
    torch.testing.assert_close(network(x), expected)
    assert network.sizes[-1] == (5, 4, 4)


def test_nodes_of_one_species_repeat_one_module_with_weights_of_their_own():
    candidate = Candidate(blueprint(0, 1, 0), {0: module(Layer(8, 3, False, 0.0)), 1: module(Layer(8, 1, False, 0.0))})
    network = candidate.network((8, 6, 6), classes=2, seed=0)
    convolutions = [network.layers[number][0] for number in ("1", "2", "3")]
    assert [c.kernel_size for c in convolutions] == [(3, 3), (1, 1), (3, 3)]
    assert not torch.equal(convolutions[0].weight, convolutions[2].weight)


def test_a_module_with_two_ways_is_the_sum_of_both():
    links = (Link(0, 0, 1), Link(1, 0, 2), Link(2, 2, 1))
    residual = Graph({OUTPUT: Nothing(), 2: Layer(3, 3, False, 0.0)}, links)
    network = Candidate(blueprint(0), {0: residual}).network((3, 4, 4), classes=2, seed=0).eval()
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(network(x), network.classifier((x + network.layers["1"](x)).flatten(1)))


def test_values_of_different_sizes_are_pooled_filled_up_and_added():
    a, b = torch.rand(2, 3, 8, 6), torch.rand(2, 5, 4, 3)
    expected = b.clone()
    for i in range(4):
        for j in range(3):
            expected[:, :3, i, j] += a[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].amax((2, 3))
    torch.testing.assert_close(merged([a, b]), expected)
    torch.testing.assert_close(merged([b, a]), expected)
    assert merged([a]) is a
    odd = merged([torch.rand(1, 1, 7, 7), torch.rand(1, 1, 3, 3)])
    assert odd.shape == (1, 1, 3, 3)


def test_the_classifier_sees_means_over_a_grid_of_four_by_four():
    network = (
        Candidate(blueprint(0), {0: module(Layer(3, 1, False, 0.0))}).network((1, 8, 12), classes=2, seed=0).eval()
    )
    x = torch.rand(2, 1, 8, 12)
    maps = network.layers["1"](x)
    cells = [maps[:, :, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3].mean((2, 3)) for i in range(4) for j in range(4)]
    torch.testing.assert_close(network(x), network.classifier(torch.stack(cells, 2).flatten(1)))


def test_a_pool_that_leaves_less_than_the_grid_is_left_out():
    candidate = Candidate(blueprint(0, 0, 0), {0: module(Layer(4, 3, True, 0.0))})
    assert candidate.network((1, 16, 19), classes=2, seed=0).sizes == [(1, 16, 19), (4, 8, 9), (4, 4, 4), (4, 4, 4)]
    network = candidate.network((1, 1, 7), classes=2, seed=0)
    assert network.sizes[-1] == (4, 1, 7) and network(torch.rand(3, 1, 1, 7)).shape == (3, 2)


def test_a_module_of_no_layers_passes_its_input_on():
    empty = Graph({OUTPUT: Nothing()}, (Link(0, 0, 1),))
    candidate = Candidate(blueprint(0, 1), {0: empty, 1: module(Layer(4, 3, False, 0.0))})
    assert [step.sources for step in candidate.steps()] == [(0,)]
    alone = Candidate(Graph({OUTPUT: Training(0.1, 0.9)}, (Link(0, 0, 1),)), {})
    assert alone.steps() == [] and alone.network((3, 2, 2), classes=5, seed=0)(torch.rand(2, 3, 2, 2)).shape == (2, 5)


def test_weights_depend_on_the_seed_alone_and_draws_stay_inside():
    before = torch.get_rng_state()
    one, same, other = (drawn(0).network((1, 8, 8), classes=3, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_of_a_network_tells_networks_apart_and_never_changes():
    candidate = Candidate(blueprint(0), {0: module(Layer(8, 3, True, 0.0))})
    other = Candidate(blueprint(0), {0: module(Layer(8, 1, True, 0.0))})
    renamed = Candidate(blueprint(7), {7: module(Layer(8, 3, True, 0.0))})
    trained = Candidate(candidate.blueprint.with_values(OUTPUT, Training(0.2, 0.9)), candidate.modules)
    seeds = [c.seed(0) for c in (candidate, other, trained)] + [candidate.seed(1)]
    assert len(set(seeds)) == 4 and renamed.seed(0) == candidate.seed(0) == 330295563


def test_networks_are_copied_loaded_and_of_other_types():
    network = drawn(3).network((1, 8, 8), classes=3, seed=0).eval()
    other = drawn(3).network((1, 8, 8), classes=3, seed=1).eval()
    other.load_state_dict(network.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(network(x), other(x)) and torch.equal(network(x), copy.deepcopy(network)(x))
    assert network.double()(x.double()).dtype == torch.float64
    assert network.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_candidates_that_cannot_be_built_are_refused():
    one = module(Layer(4, 3, False, 0.0))
    with pytest.raises(ValueError, match=r"node 2 points to species 3: there are modules of \[0\]"):
        Candidate(blueprint(3), {0: one})
    with pytest.raises(ValueError, match="node 2 in the blueprint must be Pointer, not Layer"):
        Candidate(Graph({OUTPUT: Training(0.1, 0.9), 2: Layer(4, 3, False, 0.0)}, CHAIN), {0: one})
    with pytest.raises(ValueError, match="node 1 in the blueprint must be Training, not Nothing"):
        Candidate(one, {0: one})
    with pytest.raises(ValueError, match="the module of species 0 must be Nothing, not Training"):
        Candidate(blueprint(0), {0: blueprint(0)})
    candidate = Candidate(blueprint(0), {0: one})
    for shape, classes in (((1, 8), 2), ((0, 8, 8), 2), ((1, 8, 8), 0)):
        with pytest.raises(ValueError, match="must be 1 or more, not"):
            candidate.network(shape, classes=classes, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": ()}, "filters must be different whole numbers, 1 or more, at least one"),
        ({"filters": (0,)}, "filters must be"),
        ({"filters": (8, 8)}, "filters must be different"),
        ({"kernels": (2,)}, "kernels must be different odd numbers"),
        ({"pools": (2,)}, "pools must be different truth values"),
        ({"dropouts": (1.0,)}, r"dropouts must be different numbers in \[0, 1\)"),
        ({"learning_rates": (float("nan"),)}, "learning_rates must be different positive, finite"),
        ({"momenta": (-0.1,)}, r"momenta must be different numbers in \[0, 1\)"),
    ],
)
def test_spaces_of_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Space(**options)
