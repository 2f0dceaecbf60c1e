"""Ternary products on bits against floats, and options many operations rest."""

import pytest
import torch
from given_binarization import ternary, ternary_network, two_halves
from torch import nn
from torch.nn import functional

from lib import models
from lib.binarization.gxnor_dst import ternarize
from lib.binarization.shared.signs import Binarized
from lib.binarization.shared.ternary_bits import gated_operations, ternary_dot


@pytest.mark.parametrize("length", [1, 2, 7, 63, 64, 65, 127, 200, 1001])
def test_the_product_on_two_planes_of_bits_is_that_of_floats(length):
    a, w = ternary(5, length), ternary(4, length, seed=1)
    products, active = ternary_dot(a, w)
    assert torch.equal(products.float(), a @ w.T)
    assert torch.equal(active.float(), (a != 0).float() @ (w != 0).float().T)


def test_nothing_times_nothing_is_nothing():
    for n, m, length in ((0, 3, 5), (3, 0, 5), (2, 3, 0)):
        assert [each.shape for each in ternary_dot(torch.zeros(n, length), torch.zeros(m, length))] == [(n, m)] * 2
    assert ternary_dot(torch.zeros(2, 70), ternary(3, 70))[1].abs().sum() == 0


def test_of_uniform_ternary_values_five_ninths_of_the_operations_rest():
    every = torch.cartesian_prod(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0]))
    _, active = ternary_dot(every[:, :1], every[:, 1:])
    assert 1 - active.diagonal().float().mean().item() == pytest.approx(5 / 9)
    a, w = ternary(300, 400), ternary(50, 400, seed=1)
    share = ternary_dot(a, w)[1].double().mean().item() / 400
    assert share == pytest.approx(4 / 9, abs=0.01)


def test_the_operations_of_a_network_are_those_counted_one_by_one():
    model = ternary_network().eval()
    images = two_halves(3).images
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, Binarized):
            module.activation.register_forward_hook(lambda _, __, out, n=name: seen.__setitem__(n, out))
    counts = gated_operations(model, images)
    assert list(counts) == ["0.2", "0.5", "0.7"]
    values, weight = seen["0.5"], model[0][5].layer.weight.detach()
    assert counts["0.5"] == (ternary_dot(values, weight)[1].sum().item(), 3 * 16 * 7)
    values, weight = seen["0.2"], model[0][2].layer.weight.detach()  # one input channel a filter
    patches = functional.unfold(values, 3).unflatten(1, (4, 9))  # (n, channels, 9, places)
    active = sum(((patches[:, c] != 0) & (weight[c].flatten() != 0)[:, None]).sum().item() for c in range(4))
    assert counts["0.2"] == (active, 3 * 4 * 9 * 4)
    assert not any(isinstance(m, Binarized) and len(m.activation._forward_hooks) > 1 for m in model.modules())


def test_a_border_of_zeros_has_no_operations():
    model = ternarize(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, padding=1)))
    counts = gated_operations(model, torch.rand(1, 1, 3, 3))
    assert counts["1"][1] == 4 * 4 + 4 * 6 + 9  # corners, edges, the middle


def test_products_of_other_values_and_lengths_are_refused():
    for values in (0.5, float("nan"), -2.0):
        with pytest.raises(ValueError, match=f"{values:g} is not ternary: accepted are -1, 0 and 1"):
            ternary_dot(torch.tensor([[1.0, values]]), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"a and w must hold rows of the same length, not \(1, 3\) and \(1, 2\)"):
        ternary_dot(torch.zeros(1, 3), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="has no layer that reads ternary values"):
        gated_operations(models.lenet_300_100(), torch.rand(1, 1, 28, 28))
    model = ternary_network()
    with pytest.raises(ValueError, match="does not take images of shape"):
        gated_operations(model, torch.rand(1, 3, 6, 6))
    assert not any(m._forward_hooks for m in model.modules())


def test_counting_leaves_every_module_in_its_own_mode():
    model = ternary_network().train()
    model[0].eval()
    modes = [module.training for module in model.modules()]
    gated_operations(model, two_halves(3).images)
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2
