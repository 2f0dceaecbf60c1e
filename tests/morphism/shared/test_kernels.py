"""Larger kernels read the same places with the same weights."""

import pytest
import torch
from given import generator, refused, seeded
from given_morphism import crossing, images
from torch import nn

from lib.morphism.shared.checks import largest_difference
from lib.morphism.shared.kernels import grow_kernel

CONVOLUTIONS = {
    "oblong": (lambda: nn.Conv2d(4, 6, (1, 3), padding=(0, 1)), 3),
    "strided": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), 7),
    "dilated": (lambda: nn.Conv2d(4, 6, 3, padding=1, dilation=2), 5),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), 5),
    "same": (lambda: nn.Conv2d(4, 6, 3, padding="same", dilation=2), 5),
    "valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid"), 5),
    "reflected": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), 5),
    "circular": (lambda: nn.Conv2d(4, 6, 1, padding_mode="circular"), 3),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_larger_kernel_computes_the_same(kind):
    build, kernel = CONVOLUTIONS[kind]
    model = seeded(lambda: nn.Sequential(build())).double()
    x = images(3, channels=4)
    grown = grow_kernel(model, "0", x[:1], kernel=kernel)
    assert grown[0].kernel_size == (kernel, kernel)
    assert largest_difference(model, grown, x) < 1e-15


@pytest.mark.parametrize(("kind", "places"), [(nn.Conv1d, (9,)), (nn.Conv3d, (4, 4, 4))])
def test_one_and_three_axes(kind, places):
    model = seeded(lambda: nn.Sequential(kind(2, 3, 3, padding=1))).double()
    x = torch.randn(2, 2, *places, generator=generator(), dtype=torch.float64)
    assert largest_difference(model, grow_kernel(model, "0", x, kernel=5), x) < 1e-14


def test_kernels_that_are_even_or_not_larger_are_refused():
    model, x = crossing(), images(1)
    for kernel, says in ((4, "odd number of 1 or more, not 4"), (3, "larger than the present"), (1, "larger than")):
        with refused(model, says):
            grow_kernel(model, "stem", x, kernel=kernel)
    even = nn.Sequential(nn.Conv2d(2, 3, 2))
    with refused(even, r"the kernel of layer '0' is \(2, 2\): it must be odd"):
        grow_kernel(even, "0", x.float(), kernel=5)


def test_layers_without_a_kernel_are_refused():
    with refused(model := crossing(), "has no layer 'head' that this works on: accepted are stem, a, b"):
        grow_kernel(model, "head", images(1), kernel=5)
