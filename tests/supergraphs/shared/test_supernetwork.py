"""Masked networks against what they leave, and against a network that nobody here wrote."""

import copy

import given
import numpy as np
import pytest
import torch
from torch import nn

from lib.supergraphs.fabric import fabric
from lib.supergraphs.shared.graph import Edge, Graph
from lib.supergraphs.shared.residual_fabric import residual_fabric
from lib.supergraphs.shared.supernetwork import Network, SuperNetwork, plain
from lib.vision import torchvision


def drawn(network: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that do not happen to be the identity."""
    random = given.generator()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                values.uniform_(0.5, 1.5, generator=random)
    return network.eval()


def masks_of(network: SuperNetwork, n: int, probability: float = 0.7) -> torch.Tensor:
    return torch.rand(n, len(network.graph.edges), generator=given.generator(1)) < probability


NETWORKS = [fabric(layers=3, size=4, width=3), residual_fabric(widths=(3, 4), blocks=2)]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_plain_network_computes_the_same_as_the_mask(network, dtype):
    network = drawn(copy.deepcopy(network)).to(dtype)
    images, masks = torch.rand(4, 1, 4, 4, generator=given.generator()).to(dtype), masks_of(network, 12)
    connected = network.graph.connected(masks)
    assert connected.sum() > 3
    for mask in masks[connected]:
        alone = plain(network, mask)
        assert type(alone) is Network
        assert torch.equal(alone(images), network(images, mask))
        assert set(alone.layers) == {network.graph.edges[i].name for i in network.graph.live(mask).nonzero()}


@pytest.mark.parametrize("network", NETWORKS)
def test_each_example_has_its_own_mask(network):
    network = drawn(copy.deepcopy(network)).double()
    images, masks = torch.rand(12, 1, 4, 4, generator=given.generator()).double(), masks_of(network, 12)
    together = network(images, masks)
    for i in range(12):
        torch.testing.assert_close(together[i], network(images[i : i + 1], masks[i])[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_all_edges_on_is_the_whole_network_exactly(network):
    images, ones = torch.rand(3, 1, 4, 4, generator=given.generator()), masks_of(network, 3, probability=2)
    for mode in (True, False):
        answers = [copy.deepcopy(network).train(mode)(images, *masks) for masks in ((), (ones,), (ones[0],))]
        assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


def test_layers_that_are_off_neither_run_nor_learn():
    network = copy.deepcopy(NETWORKS[0]).train()
    mask = network.graph.random_path(np.random.default_rng(0))
    before = given.state(network)
    network(torch.rand(4, 1, 4, 4), mask).sum().backward()
    for edge, on in zip(network.graph.edges, mask.tolist(), strict=True):
        gradients = [p.grad is not None for p in network.layers[edge.name].parameters()]
        moved = any(not torch.equal(v, before[k]) for k, v in network.state_dict().items() if f".{edge.name}." in k)
        assert all(gradients) == any(gradients) == moved == on


def test_a_node_without_inputs_holds_zeros():
    network = drawn(copy.deepcopy(NETWORKS[0]))
    before = given.state(network)
    images, none = torch.rand(2, 1, 4, 4), torch.zeros(len(network.graph.edges), dtype=torch.bool)
    bias = network.head.linear.bias.expand(2, -1)
    cut = ~none
    cut[network.graph.leaving[network.graph.input]] = False  # the layers after the cut have biases, but no inputs
    for mask in (none, cut, none.expand(2, -1), cut.expand(2, -1)):
        assert torch.equal(network(images, mask), bias)
        assert torch.equal(network.train()(images, mask), bias)
        network.eval()
    mixed = network(images, torch.stack([cut, ~none]))
    assert torch.equal(mixed[0], bias[0]) and not torch.equal(mixed[1], bias[1])
    del before["head.linear.bias"]
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items() if "layers" in name)


def test_blocks_of_another_network_at_the_edges_give_its_answers():
    theirs = given.seeded(lambda: torchvision.models.resnet18(num_classes=4)).eval()
    blocks = [block for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4) for block in stage]
    blocks[0] = nn.Sequential(theirs.maxpool, blocks[0])
    edges = [Edge(f"block{i}", str(i), str(i + 1)) for i in range(8)]
    layers = {f"block{i}": block for i, block in enumerate(blocks)}
    for i in (1, 3, 5, 7):  # the second block of each stage can be left out
        edges.append(Edge(f"skip{i}", str(i), str(i + 1)))
        layers[f"skip{i}"] = nn.Identity()
    ours = SuperNetwork(
        Graph(tuple(edges), "0", "8"),
        layers,
        stem=nn.Sequential(theirs.conv1, theirs.bn1),
        head=nn.Sequential(theirs.avgpool, nn.Flatten(), theirs.fc),
        channels=3,
    ).eval()
    images = torch.rand(1, 3, 64, 64, generator=given.generator())
    mask = torch.tensor([True] * 8 + [False] * 4)
    assert ours.graph.paths() == 16
    assert torch.equal(ours(images, mask), theirs(images))
    mask[[3, 9]] = torch.tensor([False, True])
    theirs.layer2[1] = nn.Identity()
    assert torch.equal(plain(ours, mask)(images), theirs(images))


def test_copies_and_states_answer_the_same():
    network, other = drawn(copy.deepcopy(NETWORKS[1])), residual_fabric(5, widths=(3, 4), blocks=2).eval()
    images = torch.rand(2, 1, 8, 8, generator=given.generator())
    assert not torch.equal(network(images), other(images))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(images), other(images)) and torch.equal(network(images), copy.deepcopy(network)(images))
    upright = images.transpose(2, 3)
    torch.testing.assert_close(network(upright), network(upright.contiguous()))  # not contiguous


def test_bad_input_is_refused():
    network = NETWORKS[0]
    n = len(network.graph.edges)
    with pytest.raises(ValueError, match=r"images of \(2, 3, 4, 4\): this network takes \(n, 1, 4, 4\)"):
        network(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"images of \(2, 1, 8, 8\): this network takes \(n, 1, 4, 4\)"):
        network(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"images of \(4, 4\): this network takes \(n, 1, height, width\)"):
        NETWORKS[1](torch.zeros(4, 4))
    with pytest.raises(ValueError, match="3 masks for 2 images"):
        network(torch.zeros(2, 1, 4, 4), torch.ones(3, n, dtype=torch.bool))
    with pytest.raises(ValueError, match="takes bool"):
        network(torch.zeros(2, 1, 4, 4), torch.ones(n))
    with pytest.raises(ValueError, match="the mask keeps 0 edges, and no path from 'l0s0' to 'l2s2' among them"):
        plain(network, torch.zeros(n, dtype=torch.bool))
    with pytest.raises(ValueError, match="one mask is needed"):
        plain(network, torch.ones(2, n, dtype=torch.bool))
    with pytest.raises(ValueError, match="edges and layers differ in a, b"):
        SuperNetwork(
            Graph((Edge("a", "in", "out"),), "in", "out"),
            {"b": nn.Identity()},
            stem=nn.Identity(),
            head=nn.Identity(),
            channels=1,
        )
