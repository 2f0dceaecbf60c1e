"""A function on the way there, another on the way back."""

import torch

from lib.precision.shared.straight_through import through


def test_there_and_back_are_two_functions():
    x = torch.tensor([0.4, 1.6], requires_grad=True)
    y = through(x, torch.round, lambda error: 3 * error)
    (y * torch.tensor([1.0, 2.0])).sum().backward()
    assert y.tolist() == [0, 2] and x.grad.tolist() == [3, 6]


def test_what_is_handed_through_is_a_tensor_of_its_own():
    x = torch.tensor([0.4, 1.6], requires_grad=True)
    y = through(x, lambda values: values)
    y.data.add_(1)
    assert x.tolist() == torch.tensor([0.4, 1.6]).tolist()
    y.sum().backward()
    assert x.grad.tolist() == [1, 1]
