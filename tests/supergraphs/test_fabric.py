"""Fabrics against exact counts, and the chains that they hold."""

import itertools
import math

import given
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import running, training
from lib.datasets import Split, load
from lib.supergraphs.fabric import fabric, trellis
from lib.supergraphs.shared.supernetwork import plain


@pytest.mark.parametrize(
    ("layers", "scales", "edges", "paths"), [(8, 6, 122, 7442), (9, 6, 138, 20844), (3, 4, 26, 26)]
)
def test_edges_and_paths_are_counted_exactly(layers, scales, edges, paths):
    graph = trellis(layers=layers, scales=scales)
    assert len(graph.edges) == edges == 2 * (scales - 1) + (layers - 1) * (3 * scales - 2)
    assert graph.paths() == paths


def walks(layers: int, scales: int, task: str) -> int:
    """Count the paths without the graph: enumerate in which scale each layer is entered and left."""
    inside = {"classification": lambda a, b: b >= a, "segmentation": lambda a, b: b <= a}[task]
    end = scales - 1 if task == "classification" else 0
    count = 0
    for scale in itertools.product(range(scales), repeat=layers - 1):  # left in the first, ..., then entered
        for entered in range(scales):
            steps = [*scale, entered]
            count += all(abs(a - b) <= 1 for a, b in itertools.pairwise(steps)) and inside(entered, end)
    return count


@pytest.mark.parametrize("task", ["classification", "segmentation"])
@pytest.mark.parametrize(("layers", "scales"), [(2, 1), (2, 3), (3, 4), (5, 3)])
def test_paths_are_those_of_enumeration(layers, scales, task):
    assert trellis(layers=layers, scales=scales, task=task).paths() == walks(layers, scales, task)


def joined(layers: int, scales: int, p: float) -> float:
    """The probability that a random mask joins image and answer: layer by layer, of each set of reached scales."""
    sets = list(itertools.product([False, True], repeat=scales))

    def down(reached: dict[tuple[bool, ...], float]) -> dict[tuple[bool, ...], float]:
        for s in range(1, scales):  # within a layer, an edge from each scale to the next
            after = dict.fromkeys(sets, 0.0)
            for held, chance in reached.items():
                reaches = 1.0 if held[s] else p * held[s - 1]
                after[*held[:s], True, *held[s + 1 :]] += chance * reaches
                after[held] += chance * (1 - reaches)
            reached = after
        return reached

    reached = down(dict.fromkeys(sets, 0.0) | {(True, *(False,) * (scales - 1)): 1.0})
    for _ in range(layers - 1):
        after = dict.fromkeys(sets, 0.0)
        for held, chance in reached.items():
            opened = [1 - (1 - p) ** sum(held[max(0, s - 1) : s + 2]) for s in range(scales)]
            for new in sets:
                after[new] += chance * math.prod(o if r else 1 - o for o, r in zip(opened, new, strict=True))
        reached = after
    return sum(chance for held, chance in down(reached).items() if held[-1])


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.75, 0.95])
def test_as_many_random_masks_are_networks_as_counted_exactly(probability):
    graph = trellis(layers=8, scales=6)
    masks = torch.rand(10_000, len(graph.edges), generator=given.generator()) < probability
    measured, share = float(graph.connected(masks).double().mean()), joined(8, 6, probability)
    assert share > 0 and abs(measured - share) < 4 * (share * (1 - share) / 10_000) ** 0.5 < share


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_zeroing_the_edges_off_a_path_leaves_the_chain(task):
    network = fabric(layers=3, size=8, width=4, task=task)
    images, random = torch.rand(3, 1, 8, 8, generator=given.generator()), np.random.default_rng(0)
    for _ in range(5):
        path = network.graph.random_path(random)
        chain = [
            layer
            for i in network.graph.order
            if path[i]
            for layer in (network.layers[network.graph.edges[i].name], nn.ReLU())
        ]
        alone = nn.Sequential(network.stem, nn.ReLU(), *chain, network.head)
        for mode in (True, False):
            network.train(mode)
            expected = alone(images)
            for masked in (network(images, path), network(images, path.expand(3, -1)), plain(network, path)(images)):
                assert (masked - expected).abs().max() == 0


def test_each_scale_has_half_the_size_of_the_finer_one():
    network = fabric(layers=3, size=8, width=4).eval()
    names = [f"layers.{edge.name}" for edge in network.graph.edges]
    with running.captured(network, names) as flow:
        network(torch.rand(2, 1, 8, 8))
    for edge in network.graph.edges:
        scale = int(edge.target.split("s")[1])
        assert flow.outputs[f"layers.{edge.name}"].shape == (2, 4, 2 ** (3 - scale), 2 ** (3 - scale))


@pytest.mark.parametrize(("connections", "each"), [("dense", 5 * 5 * 9), ("sparse", 3 * 5 * 9)])
def test_convolutions_have_as_many_weights_as_the_edges_say(connections, each):
    network = fabric(layers=4, size=8, width=5, connections=connections)
    weights = sum(p.numel() for p in network.layers.parameters() if p.dim() == 4)
    assert weights == (6 + 3 * 10) * each


@pytest.mark.parametrize("connections", ["dense", "sparse"])
def test_a_segmentation_fabric_answers_for_each_pixel(connections):
    network = fabric(layers=2, size=4, width=3, channels=3, classes=5, connections=connections, task="segmentation")
    assert network(torch.rand(2, 3, 4, 4)).shape == (2, 5, 4, 4)


def test_a_fabric_learns_to_read_digits():
    digits = load("digits")
    parts = [Split(functional.adaptive_avg_pool2d(s.images, 8), s.labels) for s in (digits.train, digits.test)]
    network = fabric(layers=2, size=8, width=8)
    training.fit(network, parts[0].first(500), epochs=3, seed=0, batch_size=25, learning_rate=0.05)
    assert training.error_pct(network, parts[1].first(200)) <= 15


def test_weights_depend_on_their_seed_alone():
    state = torch.get_rng_state()
    networks = [fabric(seed, layers=2, size=4, width=2) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert given.equal(networks[0], networks[1]) and not given.equal(networks[0], networks[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 1}, "layers must be a whole number of 2 or more, not 1"),
        ({"size": 28}, "size must be a power of two, not 28: pad or resize the images"),
        ({"size": 0}, "size must be a whole number of 1 or more, not 0"),
        ({"width": 2.5}, "width must be a whole number of 1 or more, not 2.5"),
        ({"classes": 1}, "classes must be a whole number of 2 or more, not 1"),
        ({"connections": "full"}, 'connections must be "dense" or "sparse", not \'full\''),
        ({"task": "detection"}, 'task must be "classification" or "segmentation", not \'detection\''),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fabric(**{"layers": 3, "size": 8, "width": 4, **options})
    with pytest.raises(ValueError, match="scales must be a whole number of 1 or more, not 0"):
        trellis(layers=2, scales=0)
