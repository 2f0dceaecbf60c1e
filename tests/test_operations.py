"""Multiply-adds are counted for whatever multiplies, by the module that does."""

import pytest
import torch
from torch import nn

from lib.operations import counting


class Product(nn.Module):
    def __init__(self, multiply, *inputs):
        super().__init__()
        self.multiply, self.inputs = multiply, inputs

    def forward(self):
        return self.multiply(*self.inputs)


def rand(*shape):
    return torch.rand(shape)


@pytest.mark.parametrize(
    ("multiply", "inputs", "adds"),
    [
        (torch.dot, (rand(7), rand(7)), 7),
        (torch.mv, (rand(3, 5), rand(5)), 15),
        (torch.addmv, (rand(3), rand(3, 5), rand(5)), 15),
        (torch.matmul, (rand(2, 3, 4), rand(2, 4, 5)), 120),
        (torch.addbmm, (rand(3, 5), rand(2, 3, 4), rand(2, 4, 5)), 120),
        (nn.functional.bilinear, (rand(6, 3), rand(6, 4), rand(2, 3, 4)), 6 * 2 * 3 * 4),
        (torch.add, (rand(3), rand(3)), 0),
    ],
)
def test_functions_that_multiply_are_counted(multiply, inputs, adds):
    model = Product(multiply, *inputs)
    with counting(model) as work:
        model()
    assert sum(work.values()) == adds


def test_each_module_has_its_own_and_the_hooks_go():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    with counting(model) as work:
        model(rand(2, 1, 4, 4))
    assert work == {"0": 2 * 4 * 4 * 9, "2": 2 * 32}
    model(rand(2, 1, 4, 4))
    assert sum(work.values()) == 288 + 64


def test_a_recurrent_layer_meets_every_step():
    model = nn.LSTM(3, 4, batch_first=True)
    with counting(model) as work:
        model(rand(2, 5, 3))
    assert sum(work.values()) == 2 * 5 * (16 * 3 + 16 * 4)


def test_the_fast_path_is_put_back_after_an_error():
    before = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError), counting(nn.Linear(2, 2)):
        raise RuntimeError
    assert torch.backends.mha.get_fastpath_enabled() == before
