"""One layer as several: the same function, borders included."""

import pytest
import torch
from given import generator, refused, seeded
from given_morphism import crossing, difference, images
from torch import nn

from lib.morphism.shared.branches import Branches
from lib.morphism.shared.checks import largest_difference
from lib.morphism.shared.p_activation import PActivation
from lib.morphism.shared.subnets import morph_depth, subnet

LAYERS = {
    "padded": lambda: nn.Conv2d(2, 4, 3, padding=1),
    "strided": lambda: nn.Conv2d(2, 4, 3, stride=2, padding=2, bias=False),
    "dilated": lambda: nn.Conv2d(2, 3, 3, padding=2, dilation=2),
    "grouped": lambda: nn.Conv2d(2, 4, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(2, 2, 5, padding=2, groups=2),
    "oblong": lambda: nn.Conv2d(2, 4, (1, 3), padding="same"),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 3)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_two_layers_compute_what_one_did(kind):
    model = seeded(lambda: nn.Sequential(LAYERS[kind]())).double()
    name, x = ("0.1" if kind == "linear" else "0"), images(3)
    deeper = morph_depth(model, name, x[:1])
    first, between, second = deeper.get_submodule(name)
    assert type(first) is type(second) is type(model.get_submodule(name)) and isinstance(between, PActivation)
    assert largest_difference(model, deeper, x) < 1e-13


def test_branches_of_several_layers_sum_to_the_layer():
    model, x = crossing(), images(4)
    morphed = subnet(model, "a", x[:1], branches=((3, 3, 1), (1, 3), (5,)), width=6)
    assert isinstance(morphed.a, Branches) and [p.numel() for p in morphed.a.branches[2].parameters()] == [600, 6]
    assert difference(model, morphed, x) < 1e-12


def test_wide_enough_layers_leave_no_zeros():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 3))).double()
    deeper = morph_depth(model, "0", images(1, channels=1), kernels=(3, 3), width=6)
    assert all(deeper[0][i].weight.all() for i in (0, 2))


def test_one_and_three_axes():
    for kind, places in ((nn.Conv1d, (9,)), (nn.Conv3d, (4, 4, 4))):
        model = seeded(lambda kind=kind: nn.Sequential(kind(2, 3, 3, padding=1))).double()
        x = torch.randn(2, 2, *places, generator=generator(), dtype=torch.float64)
        assert largest_difference(model, morph_depth(model, "0", x), x) < 1e-13


def test_subnets_without_an_exact_solution_are_refused():
    model, x = crossing(), images(1)
    with refused(model, r"layer 'a' has no exact subnet of kernels \(3, 3\) and 2 channels per group"):
        morph_depth(model, "a", x, kernels=(3, 3), width=2)
    with refused(model, r"kernels \(1, 1\) together reach 1, and layer 'a' has the kernel 3: they must reach as far"):
        morph_depth(model, "a", x, kernels=(1, 1))
    with refused(model, "layer 'head' has the kernel 1: it is linear, so all must be 1"):
        subnet(model, "head", x, branches=((1,), (3,)))


def test_other_branches_widths_and_layers_are_refused():
    model, x = crossing(), images(1)
    for branches in ((), ((3,), ()), (3, 3)):
        with refused(model, "branches must be one or more, each of one kernel size or more"):
            subnet(model, "a", x, branches=branches)
    with refused(model, "each kernel of branches must be an odd number of 1 or more, not 4"):
        subnet(model, "a", x, branches=((3, 4),))
    with refused(model, "width must be a positive multiple of the 2 groups of layer 'grouped', not 7"):
        morph_depth(model, "grouped", x, width=7)
    with refused(model, "width must be a whole number of 1 or more, not 0"):
        morph_depth(model, "grouped", x, width=0)
    with refused(model, "has no layer 'tail' that this works on"):
        morph_depth(model, "tail", x)
