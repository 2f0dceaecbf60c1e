"""What no morph accepts, and the proof that ends each."""

import pytest
import torch
from given import seeded
from given_morphism import chain, images
from torch import nn

from lib.morphism.shared.checks import check, check_noise, check_seed, largest_difference, proved, replaced


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


def test_noise_and_seeds_have_bounds():
    for noise in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="noise must be a number of 0 or more"):
            check_noise(noise)
    for seed in (-1, 0.5, True):
        with pytest.raises(ValueError, match="seed must be a whole number of 0 or more"):
            check_seed(seed)
