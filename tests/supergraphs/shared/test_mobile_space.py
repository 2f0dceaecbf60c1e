"""MnasNet's space: its size, its networks against torchvision's and the printed counts, blocks, what is refused."""

import itertools

import numpy as np
import pytest
import torch

from lib import measure
from lib.supergraphs.shared.mobile_space import (
    MNASNET_A1,
    Base,
    Block,
    Layer,
    Mobile,
    MobileSpace,
    SqueezeExcitation,
    space_sizes,
)
from lib.vision import torchvision


def bases(*rows):
    return tuple(itertools.starmap(Base, rows))


FIRST = Block("separable", 3, 0, "none")
B1 = bases((16, 1, 1), (24, 3, 2), (40, 3, 2), (80, 3, 2), (96, 2, 1), (192, 4, 2), (320, 1, 1))
B1_BLOCKS = Mobile((FIRST, *(Block(f"mobile{e}", k) for e, k in [(3, 3), (3, 5), (6, 5), (6, 3), (6, 5), (6, 3)])))
A1, A1_BLOCKS = MNASNET_A1
TOY = MobileSpace(bases=bases((8, 2, 2), (12, 1, 1)), stem=4, head=16, channels=1, classes=10)


def test_the_sizes_of_the_paper():
    assert [f"{size:.1e}" for size in space_sizes(432, 5, 3)] == ["1.5e+13", "3.4e+39"]
    assert MobileSpace(bases=B1[:1]).size == 432 == len(set(MobileSpace(bases=B1[:1])))
    assert MobileSpace(bases=B1[:5]).size == space_sizes(432, 5, 3)[0]


def test_mnasnet_b1_answers_as_torchvisions():
    theirs = torchvision.models.mnasnet1_0(weights=None, num_classes=10).eval()
    ours = MobileSpace(bases=B1, classes=10).build(B1_BLOCKS, 0).eval()
    values = [theirs.state_dict(), ours.state_dict()]
    assert [v.shape for v in values[0].values()] == [v.shape for v in values[1].values()]
    for tensor in values[0].values():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))  # batch norm that does something
    ours.load_state_dict(dict(zip(values[1], values[0].values(), strict=True)))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_mnasnet_b1_costs_as_much_as_printed():
    net = MobileSpace(bases=B1).build(B1_BLOCKS, 0)
    assert measure.parameters(net) == 4_383_312
    assert measure.multiply_adds(net, (3, 224, 224)) == 314_415_872


def test_mnasnet_a1_costs_as_much_as_printed():
    net = MobileSpace(bases=A1).build(A1_BLOCKS, 0)
    assert measure.parameters(net) == 3_887_038  # printed: 3.9 M, and 312 M multiply-adds
    assert round(measure.multiply_adds(net, (3, 224, 224)) / 1e6) == 312


def test_layers_of_a_block_are_alike_and_blocks_differ():
    net = MobileSpace(bases=A1, classes=10).build(A1_BLOCKS, 0)
    blocks = [net.get_submodule(f"block{number}") for number in range(1, 8)]
    kernels = [[layer.main.depthwise.conv.kernel_size[0] for layer in block] for block in blocks]
    assert kernels == [[3], [3, 3], [5, 5, 5], [3, 3, 3, 3], [3, 3], [5, 5, 5], [3]]
    squeezed = [{hasattr(layer.main, "squeeze") for layer in block} for block in blocks]
    assert squeezed == [{False}, {False}, {True}, {False}, {True}, {True}, {False}]


def test_choices_and_candidates_are_the_same():
    random = np.random.default_rng(0)
    for _ in range(20):
        candidate = TOY.sample(random)
        assert TOY.candidate(TOY.numbers(candidate)) == candidate
        neighbor = TOY.mutated(candidate, random)
        assert sum(a != b for a, b in zip(TOY.numbers(candidate), TOY.numbers(neighbor), strict=True)) == 1


def test_every_option_makes_a_network_that_learns():
    random, images = np.random.default_rng(0), torch.rand(4, 1, 14, 14)
    seen = set()
    while len(seen) < 34:  # 17 options, two blocks
        candidate = TOY.sample(random)
        seen |= set(enumerate(TOY.numbers(candidate)))
        net = TOY.build(candidate, 0)
        net(images).square().mean().backward()
        assert all(parameter.grad is not None for parameter in net.parameters())


def test_width_and_layers_follow_the_choice():
    net = TOY.build(Mobile((Block(width=1.25, layers=1), Block(width=0.75, layers=-1))), 0)
    assert (len(net.block1), len(net.block2)) == (3, 1)  # a block has at least one layer
    assert net.block1[0].main.project[0].out_channels == 10 and net.block2[0].main.project[0].out_channels == 9


@pytest.mark.parametrize("operation", ["conv", "separable", "mobile6"])
def test_an_input_is_added_only_where_sizes_agree(operation):
    x = torch.rand(2, 6, 8, 8)
    for skip, stride, outputs in itertools.product(("none", "identity", "pool"), (1, 2), (6, 8)):
        layer = Layer(Block(operation, skip=skip), 6, outputs, stride).eval()
        added = layer(x) - layer.main(x)
        if skip == "identity" and stride == 1 and outputs == 6:
            torch.testing.assert_close(added, x)
        elif skip == "pool" and outputs == 6:
            assert added[0, 0, 1, 1].item() == pytest.approx(
                x[0, 0, :3, :3].mean().item() if stride == 1 else x[0, 0, 1:4, 1:4].mean().item(), abs=1e-5
            )
        else:
            assert not added.any()


def test_squeeze_and_excitation_multiplies_by_a_gate_of_the_means():
    layer = SqueezeExcitation(6, 2).double()
    x = torch.rand(3, 6, 4, 4, dtype=torch.double)
    hidden = (x.mean((2, 3)) @ layer.reduce.weight[:, :, 0, 0].T + layer.reduce.bias).clamp(min=0)
    gate = 1 / (1 + (-(hidden @ layer.expand.weight[:, :, 0, 0].T + layer.expand.bias)).exp())
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bases": ()}, "at least one"),
        ({"bases": (Base(8, 0, 1),)}, "whole numbers of 1"),
        ({"operations": ["conv"]}, r"operations must be a tuple, not \['conv'\]"),
        ({"operations": ("conv", "fire")}, "operations must be different options of conv"),
        ({"kernels": (2,)}, "kernels must be different options odd"),
        ({"kernels": ()}, "at least one of them"),
        ({"squeezes": (0, 2)}, "between 0 and 1"),
        ({"skips": ("identity", "identity")}, "skips must be different"),
        ({"widths": (0.0,)}, "above 0"),
        ({"widths": (float("nan"),)}, "above 0"),
        ({"layers": (0.5,)}, "whole numbers"),
        ({"stem": 0}, "stem must be a whole number of 1"),
        ({"classes": 1}, "classes must be a whole number of 2"),
    ],
)
def test_spaces_without_a_network_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MobileSpace(**options)


@pytest.mark.parametrize(
    ("candidate", "message"),
    [(Mobile((Block(),)), "2 blocks, not 1"), (Mobile((Block(), Block(kernel=7))), "7 is not in this space")],
)
def test_candidates_of_another_space_are_refused(candidate, message):
    for call in (TOY.numbers, lambda c: TOY.build(c, 0)):
        with pytest.raises(ValueError, match=message):
            call(candidate)


@pytest.mark.parametrize("sizes", [(0, 5, 3), (432, 0, 3), (432, 5, 1.5)])
def test_sizes_of_no_space_are_refused(sizes):
    with pytest.raises(ValueError, match="whole number of 1 or more"):
        space_sizes(*sizes)
