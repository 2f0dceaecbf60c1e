"""A twin runs apart: it shares parameters, draws nothing at random, and nothing outside notices."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lib.structure import apart


def test_a_twin_shares_parameters_and_nothing_else():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = network[1].running_mean.clone()
    twin = apart.twin(network)
    apart.answers(twin, torch.rand(4, 3), training=True)
    assert all(a is b for a, b in zip(twin.parameters(), network.parameters(), strict=True))
    assert torch.equal(network[1].running_mean, before) and not torch.equal(twin[1].running_mean, before)


def test_what_cannot_be_copied_is_refused_by_name():
    network = nn.Linear(2, 2)
    network.lock = (each for each in range(3))
    with pytest.raises(ValueError, match="Linear cannot be copied: cannot pickle 'generator' object"):
        apart.twin(network)


def test_the_random_states_stay_as_they_were():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    with apart.undisturbed(torch.device("cpu")):
        first = random.random(), np.random.rand(), torch.rand(1).item()
    with apart.undisturbed(torch.device("cpu")):
        assert first == (random.random(), np.random.rand(), torch.rand(1).item())
    assert states() == before


@pytest.mark.parametrize("training", [True, False])
def test_added_noise_is_ones_whatever_its_shape(training):
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x) + torch.randn(x.shape)

    (found,) = apart.answers(Noisy(), torch.zeros(2, 3), training=training)
    assert torch.equal(found, torch.full((2, 3), 2.0))


def test_tensors_are_found_in_every_kind_of_output():
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    output = SimpleNamespace(logits=a, more=[{"deep": (b, None)}, "text"], last=c)
    assert [len(each) for each in apart.tensors(output)] == [1, 2, 3]
