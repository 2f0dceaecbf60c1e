"""Channels are followed through a network to all that depends on them, or there is a reason why they cannot go."""

import pytest
import torch
from given_structure import between, images
from torch import nn

from lib.structure import graph
from lib.structure.apart import twin


def reached(model, name="a"):
    network = twin(model)
    names = {module: name for name, module in network.named_modules()}
    record = graph.recorded(network, images()[:1])
    found = graph.followed(record, network.get_submodule(name), names)
    return found if isinstance(found, str) else {names[s.module]: s for s in found if s.module in names}


def test_batch_norm_carries_and_a_convolution_reads():
    stops = reached(between(lambda net, x: net.norm(x), norm=nn.BatchNorm2d(8)))
    assert set(stops) == {"a", "norm", "b"} and stops["a"].writes and not stops["b"].writes
    assert stops["b"].numbers == {i: i for i in range(8)}


def test_a_concatenation_moves_the_numbers():
    stops = reached(between(lambda net, x: torch.cat([net.c(x), x], 1), reads=16, c=nn.Conv2d(8, 8, 1)))
    assert stops["b"].numbers == {i + 8: i for i in range(8)} and stops["c"].numbers == {i: i for i in range(8)}


def test_channels_of_the_output_stay():
    assert reached(between(lambda net, x: x), "fc") == graph.OUTPUT


def test_frozen_parameters_are_traced_and_stay_frozen():
    model = between(lambda net, x: x).requires_grad_(False)
    assert set(reached(model)) == {"a", "b"}
    assert not any(p.requires_grad for p in model.parameters())


def test_a_network_that_fails_is_refused():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no way")

    with pytest.raises(ValueError, match="the graph of Broken cannot be traced: no way"):
        graph.recorded(Broken(), torch.zeros(1, 2))
