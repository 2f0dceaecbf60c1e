"""Wider layers, and all that their channels reach."""

import pytest
import torch
from given import equal, refused, seeded
from given_morphism import chain, crossing, difference, images
from torch import nn

from lib.morphism.shared.checks import largest_difference
from lib.morphism.shared.widening import widen


@pytest.mark.parametrize("new", ["copies", "zeros"])
@pytest.mark.parametrize(("layer", "width"), [("stem", 6), ("a", 9), ("b", 8), ("grouped", 8), ("hidden", 6)])
def test_a_wider_layer_changes_nothing_in_either_mode(layer, width, new):
    model, x = crossing(), images(6, seed=2)
    wide = widen(model, layer, x[:1], width=width, new=new)
    assert len(wide.get_submodule(layer).weight) == width
    assert difference(model, wide, x) < 1e-13


def test_float32_differs_by_rounding_alone():
    model, x = crossing(torch.float32), images(64, dtype=torch.float32)
    assert largest_difference(model, widen(model, "stem", x[:1], width=8), x) < 1e-6


def test_copied_channels_share_the_weight_of_their_readers():
    model = seeded(lambda: nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))).double()
    wide = widen(model, "0", torch.zeros(1, 2).double(), width=4)
    assert torch.equal(wide[0].weight, model[0].weight.expand(4, 2))
    assert torch.equal(wide[2].weight, model[2].weight.expand(1, 4) / 4)


def test_random_channels_are_new_and_nobody_reads_them():
    model = chain()
    wide = widen(model, "0", images(1), width=6, new="zeros", seed=5)
    assert torch.equal(wide[0].weight[:4], model[0].weight) and not wide[4].weight[:, 4:].any()
    assert (wide[0].weight[4:].flatten(1).unsqueeze(1) != model[0].weight.flatten(1)).all()


def test_noise_moves_new_filters_alone_and_depends_on_the_seed():
    model, x = chain(), images(1)
    exact, noisy = (widen(model, "0", x, width=6, noise=noise, seed=1) for noise in (0.0, 0.01))
    assert torch.equal(noisy[0].weight[:4], model[0].weight)
    moved = noisy[0].weight[4:] - exact[0].weight[4:]
    assert 0.003 < float(moved.detach().std() / model[0].weight.detach().std()) < 0.03
    assert equal(noisy, widen(model, "0", x, width=6, noise=0.01, seed=1))
    assert not equal(noisy, widen(model, "0", x, width=6, noise=0.01, seed=2))


def test_frozen_parameters_stay_so():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    model[0].requires_grad_(False)
    wide = widen(model, "0", images(1, dtype=torch.float32), width=8)
    assert not wide[0].weight.requires_grad and wide[2].weight.requires_grad


def test_widths_that_are_not_larger_are_refused():
    model, x = crossing(), images(1)
    for width in (5, 6):
        with refused(model, f"the width of layer 'a' must be above the present 6, not {width}"):
            widen(model, "a", x, width=width)
    for width in (0, -1, 8.0):
        with refused(model, f"width must be a whole number of 1 or more, not {width}"):
            widen(model, "a", x, width=width)
    with refused(model, "above the present 4, in multiples of 2, not 7"):
        widen(model, "b", x, width=7)


def test_layers_whose_channels_must_stay_are_refused():
    model, x = crossing(), images(1)
    with refused(
        model, r"layer 'head' cannot be widened \(its channels are an output of the network\): accepted are stem"
    ):
        widen(model, "head", x, width=5)
    with refused(model, r"layer 'depthwise' cannot be widened \(it is depthwise"):
        widen(model, "depthwise", x, width=8)
    with refused(model, "has no layer 'tail' that this works on"):
        widen(model, "tail", x, width=8)
    softmax = nn.Sequential(nn.Linear(2, 3), nn.Softmax(1), nn.Linear(3, 1))
    with refused(softmax, "layer '0' cannot be widened"):
        widen(softmax, "0", torch.zeros(1, 2), width=4)


def test_other_channels_noise_and_weights_are_refused():
    model, x = chain(), images(1)
    with refused(model, "new must be one of copies, zeros, not 'ones'"):
        widen(model, "0", x, width=5, new="ones")
    with refused(model, "noise must be a number of 0 or more, not -1"):
        widen(model, "0", x, width=5, noise=-1)
    model[4].weight.data[0, 0, 0, 0] = float("inf")
    with refused(model, "the weight of layer '4' holds NaN or infinity"):
        widen(model, "0", x, width=5)
