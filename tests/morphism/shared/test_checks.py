"""What no morph accepts, and the proof that ends each."""

import math

import pytest
import torch
from given import refused, seeded
from given_morphism import chain, images
from torch import nn

from lib.morphism.shared.checks import check, check_noise, largest_difference, proved, replaced


def test_a_network_that_computes_something_else_is_refused():
    model, x = chain(), images(2)
    other = replaced(model, "2", nn.Tanh())
    with pytest.raises(ValueError, match="this would change what Sequential computes: the larger network computes"):
        proved(model, other, x, "this")
    with pytest.raises(ValueError, match=r"this would change .* the outputs differ by"):
        proved(model, other, x, "this", training=False)
    assert proved(model, same := replaced(model, "2", nn.ReLU()), x, "this") is same


def test_a_difference_in_training_mode_alone_is_seen():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    momentless = replaced(model, "1", nn.BatchNorm1d(3, eps=0.5))
    with torch.no_grad():
        momentless[1].running_var.copy_(model[1].running_var + model[1].eps - 0.5)
    x = images(4)[:, 0, 0, :3].float()
    assert largest_difference(model, momentless, x) < 1e-6 < largest_difference(model, momentless, x, training=True)
    with pytest.raises(ValueError, match="in training mode"):
        proved(model, momentless, x, "this")


def test_the_difference_is_in_units_of_the_largest_output():
    model = seeded(lambda: nn.Sequential(nn.Linear(2, 2, bias=False)))
    other = replaced(model, "0", nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        other[0].weight.copy_(torch.tensor([[4.0, 0.0], [0.0, 2.0]]))
    assert largest_difference(model, other, torch.ones(1, 2)) == 0.25
    assert largest_difference(nn.ReLU(), nn.Identity(), -torch.ones(1, 2)) == torch.inf
    with pytest.raises(ValueError, match="they cannot be compared"):
        largest_difference(model, nn.Flatten(0), torch.ones(1, 2))


def test_bare_layers_and_what_is_no_example_are_refused():
    with pytest.raises(ValueError, match="Linear is a bare layer: wrap it"):
        check(nn.Linear(2, 2), torch.zeros(1, 2))
    for example, says in (([1.0], "one tensor, not list"), (torch.zeros(0, 2), "empty")):
        with pytest.raises(ValueError, match=says):
            check(nn.Sequential(nn.Linear(2, 2)), example)


def test_types_in_which_sharing_rounds_are_refused():
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(ValueError, match=f"'0.weight' is of {dtype}"):
            check(nn.Sequential(nn.Linear(2, 2)).to(dtype), torch.zeros(1, 2, dtype=dtype))


class Split(nn.Module):
    """Two outputs: the input, and a function of it."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return x, self.function(x)


def test_a_nan_in_any_output_is_no_agreement():
    model, other, x = Split(torch.abs), Split(torch.log), torch.tensor([[-1.0, 1.0]])
    assert math.isnan(largest_difference(model, other, x)) and math.isnan(largest_difference(other, model, x))
    for training in (False, True):
        with pytest.raises(ValueError, match="this would change what Split computes"):
            proved(model, other, x, "this", training=training)


def test_constant_examples_hide_no_difference():
    model, other = nn.Sequential(nn.Linear(2, 2, bias=False)), nn.Sequential(nn.Linear(2, 2, bias=False))
    for x in (torch.zeros(1, 2), torch.full((3, 2), float("nan"))):
        for training in (False, True):
            with pytest.raises(ValueError, match="this would change what Sequential computes"):
                proved(model, other, x, "this", training=training)
            assert proved(model, model, x, "this", training=training) is model


def test_a_module_of_two_names_is_replaced_under_both():
    model = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    model.append(model[0])
    assert replaced(model, "0", new := nn.Tanh())[2] is new and isinstance(model[2], nn.ReLU)


def test_tensors_shared_with_others_are_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].bias = model[0].bias
    with refused(model, "layer '0' shares a tensor with '1.bias', which a morph would end: give each its own first"):
        replaced(model, "0", nn.Linear(2, 2))


def test_noise_has_bounds():
    for noise in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="noise must be a number of 0 or more"):
            check_noise(noise)
