"""A P-activation goes from the identity to its activation."""

import copy

import pytest
import torch
from torch import nn

from lib.morphism.shared.p_activation import PActivation, anneal

X = torch.tensor([-2.0, -0.5, 0.0, 3.0])


def test_with_share_one_it_is_the_identity():
    assert torch.equal(PActivation(nn.Tanh())(X), X)


def test_for_relu_it_is_a_prelu():
    model = nn.Sequential(PActivation(nn.ReLU()))
    for share in (0.25, 0.5):
        torch.testing.assert_close(anneal(model, share)(X), nn.functional.prelu(X, torch.tensor([share])))


def test_annealing_ends_at_the_activation_and_freezes_the_share():
    model = anneal(nn.Sequential(PActivation(nn.Sigmoid()), PActivation(nn.ReLU())), 0.0)
    assert torch.equal(model(X), X.sigmoid())
    assert not any(p.requires_grad for p in model.parameters())


def test_the_share_is_learned_and_kept():
    layer = PActivation(nn.ReLU(), dtype=torch.float64)
    layer(X.double()).sum().backward()
    assert float(layer.share.grad) == -2.5  # the sum of x where it is negative
    layer.share.data.fill_(0.3)
    fresh = PActivation(nn.ReLU(), dtype=torch.float64)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(copy.deepcopy(fresh)(X.double()), layer(X.double()))


def test_other_shares_and_networks_are_refused():
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\], not 1.5"):
        anneal(nn.Sequential(PActivation(nn.ReLU())), 1.5)
    with pytest.raises(ValueError, match="Sequential has no P-activation"):
        anneal(nn.Sequential(nn.ReLU()), 0.5)
