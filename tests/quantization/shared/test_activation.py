"""Activations on a grid: what they observe, when they round, and their state."""

import copy

import pytest
import torch
from torch import nn

from lib.quantization.shared.activation import Activation, activations, check_precise


def test_nothing_is_rounded_before_a_range_is_there_or_while_it_is_switched_off():
    activation, r = Activation(bits=2), torch.tensor([-1.0, 0.4, 2.0])
    assert torch.equal(activation(r), r)
    activation.observe(r)
    assert activation(r).tolist() == [-1, 0, 2]
    activation.quantizing = False
    assert torch.equal(activation(r), r)


def test_a_grid_needs_a_range():
    with pytest.raises(ValueError, match="no image has gone through"):
        Activation().grid()


def test_a_state_of_the_same_bits_is_enough():
    first, again, other = Activation(bits=3), Activation(bits=3), Activation(bits=4)
    first.observe(torch.tensor([-1.0, 2.0]))
    again.load_state_dict(first.state_dict())
    r = torch.linspace(-2, 3, 50)
    assert torch.equal(again(r), first(r)) and torch.equal(copy.deepcopy(first)(r), first(r))
    with pytest.raises(RuntimeError, match="bits4_lower"):
        other.load_state_dict(first.state_dict())


def test_half_precision_leaves_the_range_alone():
    activation = Activation()
    activation.observe(torch.tensor([-0.1, 0.3]))
    before = activation.lower.clone(), activation.upper.clone()
    activation.half()
    assert (activation.lower, activation.upper) == before and activation.lower.dtype == torch.float32
    assert activation.to("meta").lower.is_meta


def test_networks_without_activations_are_refused():
    with pytest.raises(ValueError, match="Linear has no activation on a grid"):
        activations(nn.Linear(2, 2))


def test_only_types_with_enough_digits_are_precise():
    check_precise("weight", torch.zeros(1))
    with pytest.raises(ValueError, match=r"weight is torch.bfloat16: accepted are float32 and float64"):
        check_precise("weight", torch.zeros(1, dtype=torch.bfloat16))
