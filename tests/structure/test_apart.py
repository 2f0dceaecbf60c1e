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


def test_embeddings_that_scale_their_weight_do_not_share_it():
    network = nn.Sequential(nn.Embedding(9, 4, max_norm=0.1), nn.Linear(4, 2))
    before, twin = network[0].weight.detach().clone(), apart.twin(network)
    apart.answers(twin, torch.arange(9)[None], training=False)
    assert torch.equal(network[0].weight, before) and twin[1].weight is network[1].weight
    apart.check_unwritten(network, torch.arange(9)[None])


@pytest.mark.parametrize("mode", [True, False])
def test_a_parameter_that_is_written_is_named(mode):
    class Clamping(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x):
            if self.training == mode:
                self.a.weight.data.clamp_(-0.1, 0.1)
            return self.a(x)

    network = Clamping()
    before = network.a.weight.detach().clone()
    with pytest.raises(ValueError, match=r"Clamping writes into its parameter 'a\.weight' when it runs"):
        apart.check_unwritten(network, torch.rand(1, 3))
    assert torch.equal(network.a.weight, before)
