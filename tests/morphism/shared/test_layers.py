"""Layers by name, and new ones like them."""

import pytest
import torch
from given_morphism import crossing
from torch import nn

from lib.morphism.shared.layers import blank, check_kernel, layer_named, padding_for, resized, spatial


def test_a_missing_layer_and_one_with_nan_are_refused():
    model = crossing()
    with pytest.raises(ValueError, match="Crossing has no layer 'tail' that this works on: accepted are stem, a, b"):
        layer_named(model, "tail")
    with pytest.raises(ValueError, match="no layer ''"):
        layer_named(nn.Linear(2, 2), "")
    model.head.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="the weight of layer 'head' holds NaN or infinity"):
        layer_named(model, "head")


@pytest.mark.parametrize("kernel", [0, 2, -1, 3.0, True])
def test_kernels_without_a_middle_are_refused(kernel):
    with pytest.raises(ValueError, match=f"kernel must be an odd number of 1 or more, not {kernel}"):
        check_kernel(kernel)


@pytest.mark.parametrize("layer", [nn.Conv1d(2, 4, 5), nn.Conv3d(2, 4, 3, groups=2), nn.Linear(2, 4)])
def test_a_new_layer_has_type_axes_and_mode_of_the_old(layer):
    new = blank(layer.double().eval(), 4, 6, 3)
    assert type(new) is type(layer) and new.weight.dtype == torch.float64 and not new.training
    assert spatial(new) == spatial(layer) and len(new.weight) == 6 and not new.weight.any() and not new.bias.any()


def test_a_resized_layer_keeps_what_is_not_its_size():
    old = nn.Conv2d(4, 6, 3, dilation=2, groups=2, padding_mode="reflect").requires_grad_(False)
    new = resized(old, torch.zeros(8, 3, 5, 5), padding=(1, 2), stride=(2, 2))
    assert (new.in_channels, new.out_channels, new.kernel_size, new.stride) == (6, 8, (5, 5), (2, 2))
    assert (new.dilation, new.groups, new.padding_mode, new.weight.requires_grad) == ((2, 2), 2, "reflect", False)
    assert old.kernel_size == (3, 3) and old.weight.shape == (6, 2, 3, 3)


@pytest.mark.parametrize("padding", ["same", 2])
def test_a_resized_convolution_keeps_padding_and_stride_unless_given(padding):
    old = nn.Conv2d(4, 6, 3, padding=padding, padding_mode="circular").double()
    new = resized(old, old.weight.detach()[:, :2])
    assert (new.padding, new.stride) == (old.padding, old.stride)
    x = torch.ones(1, 4, 5, 5).double()
    x[:, 2:] = 0
    torch.testing.assert_close(new(x[:, :2]), old(x))


def test_padding_grows_with_the_kernel_along_each_axis():
    layer = nn.Conv2d(1, 1, (1, 3), padding=(0, 1), dilation=(1, 2))
    assert padding_for(layer, 5) == (2, 3)
