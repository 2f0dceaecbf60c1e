"""Drawn values, networks whose norms are not the identity or with the weights of others, and what all must hold."""

import copy
from collections.abc import Callable

import pytest
import torch
from given import equal, generator
from torch import nn


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal values of float64."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert that values of float64 differ by their rounding only."""
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= 1e-12 * expected.abs().max()


def with_drawn_norms(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with batch norms that do not happen to be the identity."""
    random = generator()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                values.uniform_(0.5, 1.5, generator=random)
    return network.eval()


def with_weights_of(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    """Our network with their weights: both name them in the order in which they run."""
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    return ours


def check_least_images(network: nn.Module, outputs: tuple[int, ...]) -> None:
    """Assert that a network takes images of its ``least`` size, and refuses smaller ones."""
    network.eval()
    channels, least = network.channels, network.least
    assert network(torch.zeros(1, channels, least, least)).shape == outputs
    with pytest.raises(ValueError, match=f"with {least} pixels? or more on each side"):
        network(torch.zeros(1, channels, 64, least - 1))


def check_seed_and_copies(build: Callable[[int], nn.Module], images: torch.Tensor) -> None:
    """Assert that the seed alone decides the weights, and that copies and loaded networks answer the same.

    build: gives a network for a seed.
    images: float64.
    """
    state = torch.get_rng_state()
    network = build(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(network, build(1)) and not equal(network, build(2))
    network, other = network.double().eval(), build(2).double().eval()
    other.load_state_dict(network.state_dict())
    for twin in (copy.deepcopy(network), other):
        assert torch.equal(twin(images), network(images))
