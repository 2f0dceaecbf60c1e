"""The residual fabric against the residual network that it holds."""

import given
import pytest
import torch
from torch import nn

from lib.supergraphs.shared.residual_fabric import idle, residual_fabric


def test_without_shortcuts_it_is_a_residual_network():
    network = residual_fabric(widths=(3, 4), blocks=2).double()
    across = [edge.source.startswith("s0") and edge.target.startswith("s1") for edge in network.graph.edges]
    across = [far and edge.source != "s0n1" for far, edge in zip(across, network.graph.edges, strict=True)]
    assert sum(across) == 2
    images = torch.rand(5, 1, 8, 8, generator=given.generator()).double()
    answers = network(images, ~torch.tensor(across))
    x = torch.relu(network.stem(images))
    for source, target in (("input", "s0n0"), ("s0n0", "s0n1"), ("s0n1", "s1n0"), ("s1n0", "s1n1")):
        block, skip = (network.layers[f"{kind}_{source}_{target}"] for kind in ("block", "skip"))
        x = torch.relu(block(x) + skip(x))
    torch.testing.assert_close(answers, nn.Linear.forward(network.head[2], x.mean((2, 3))))


def test_shortcuts_lead_from_the_mirrored_place_of_the_stage_before():
    edges = residual_fabric(widths=(2, 3, 4), blocks=4).graph.edges
    found = {(e.source, e.target) for e in edges if e.name.startswith("block") and e.source[:2] != e.target[:2]}
    ends = {("input", "s0n0"), ("s0n3", "s1n0"), ("s1n3", "s2n0")}
    assert found - ends == {(f"s{s}n{2 - n}", f"s{s + 1}n{n}") for s in (0, 1) for n in range(3)}


def test_every_path_of_skips_alone_is_a_network():
    network = residual_fabric(widths=(2, 3, 4), blocks=3, channels=3, classes=5).eval()
    mask = torch.tensor([edge.name.startswith("skip") for edge in network.graph.edges])
    assert network(torch.rand(2, 3, 9, 7), mask).shape == (2, 5)  # odd sizes: block and skip round alike
    chain = 2**9
    assert network.graph.paths(~mask) < network.graph.paths() and network.graph.paths() > chain


def test_one_stage_has_two_ways_for_each_block():
    network = residual_fabric(widths=(4,), blocks=5)
    assert network.graph.paths() == 2**5
    assert len(idle(network)) == 5


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"widths": (), "blocks": 2}, "stages must be a whole number of 1 or more, not 0"),
        ({"widths": (4, 0), "blocks": 2}, r"widths\[1\] must be a whole number of 1 or more, not 0"),
        ({"widths": (4,), "blocks": 0}, "blocks must be"),
        ({"widths": (4,), "blocks": 1, "classes": 1}, "classes must be a whole number of 2 or more, not 1"),
    ],
)
def test_bad_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        residual_fabric(**sizes)
