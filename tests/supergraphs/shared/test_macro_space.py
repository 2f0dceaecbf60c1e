"""The macro space: how many networks, which layers they have, skips, reductions, what is refused."""

import numpy as np
import pytest
import torch
from given import generator, split
from given_choices import every
from torch import nn

from lib import running
from lib.supergraphs.shared.macro_space import OPERATIONS, Macro, MacroSpace, Reduction

SMALL = MacroSpace(layers=3, operations=("conv3", "max3"), width=4)


@pytest.mark.parametrize(("layers", "size"), [(1, 6), (2, 72), (3, 1728)])
def test_the_size_is_the_number_of_different_networks(layers, size):
    space = MacroSpace(layers=layers)
    assert len(set(space)) == space.size == size == 6**layers * 2 ** (layers * (layers - 1) // 2)


def test_twelve_layers_make_the_number_of_the_paper():
    assert f"{MacroSpace(layers=12).size:.1e}" == "1.6e+29"


def test_choices_and_candidates_are_the_same():
    random = np.random.default_rng(0)
    space = MacroSpace(layers=5)
    for _ in range(20):
        candidate = space.sample(random)
        assert space.candidate(space.numbers(candidate)) == candidate
    assert [space.numbers(c) for c in (space.candidate(row) for row in [[0] * 15, [5, *[1] * 14]])] == [
        (0,) * 15,
        (5, *(1,) * 14),
    ]
    assert [SMALL.numbers(candidate) for candidate in SMALL] == [tuple(row) for row in every(SMALL).tolist()]


def test_a_network_has_its_own_operations_and_no_others():
    candidate = Macro(("conv3", "separable5", "max3"), ((), (False,), (True, False)))
    names = [name for name, _ in MacroSpace(layers=3).build(candidate, 0).named_children()]
    operations = [name for name in names if name.partition("_")[2] in OPERATIONS]
    assert operations == ["0_conv3", "1_separable5", "2_max3"]
    assert [name for name in names if "reduce" in name] == ["0_reduce0", "1_reduce0", "1_reduce1"]


@pytest.mark.parametrize("skip", [False, True])
def test_an_output_is_the_normalized_sum_of_operation_and_skips(skip):
    space = MacroSpace(layers=2, operations=OPERATIONS, width=4)
    candidate = Macro(("conv5", "average3"), ((), (skip,)))
    net = space.build(candidate, 0).double()
    images = torch.rand(3, 1, 6, 6, dtype=torch.double)
    with running.captured(net, ["0_conv5", "1_average3", "1_norm", "classifier"]) as flow:
        net(images)
    total = flow.outputs["1_average3"] + (flow.outputs["0_conv5"] if skip else 0)
    torch.testing.assert_close(flow.inputs["1_norm"], total)
    torch.testing.assert_close(flow.inputs["classifier"], flow.outputs["1_norm"].mean((2, 3)))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_sees_the_pixels_that_its_name_says(operation):
    space = MacroSpace(layers=1, width=2)
    net = space.build(Macro((operation,), ((),)), 0).double().eval()
    layer = net.get_submodule(f"0_{operation}")
    for convolution in layer.modules():
        if isinstance(convolution, nn.Conv2d):
            nn.init.ones_(convolution.weight)  # so that no ReLU hides a pixel
    image = torch.rand(1, 2, 9, 9, dtype=torch.double, generator=generator())
    raised = image.repeat(81, 1, 1, 1)
    for pixel in range(81):
        raised[pixel, :, pixel // 9, pixel % 9] += 9  # above all others, so that a max pool takes it
    with torch.no_grad():
        changed = (layer(raised)[:, :, 4, 4] != layer(image)[:, :, 4, 4]).any(1).reshape(9, 9)
    reach = int(operation[-1]) // 2
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[4 - reach : 5 + reach, 4 - reach : 5 + reach] = True
    assert torch.equal(changed, expected)


def test_images_are_halved_after_one_and_two_thirds():
    space = MacroSpace(layers=6, operations=("conv3",))
    net = space.build(next(space.covering()), 0)
    with running.captured(net, [f"{layer}_conv3" for layer in range(6)]) as flow:
        net(split(2, 1, 14, 14).images)
    assert [output.shape[2] for output in flow.outputs.values()] == [14, 14, 7, 7, 4, 4]


@pytest.mark.parametrize("size", [6, 7])
def test_a_reduction_sees_every_second_pixel_of_both_kinds(size):
    reduction = Reduction(2).double().eval()
    for layer in (reduction.first, reduction.second):
        nn.init.ones_(layer.weight)
    image = torch.rand(1, 2, size, size, dtype=torch.double).requires_grad_()
    reduced = reduction(image)
    assert reduced.shape == (1, 2, (size + 1) // 2, (size + 1) // 2)
    reduced.sum().backward()
    seen = image.grad[0].sum(0) > 0
    expected = torch.zeros(size, size, dtype=torch.bool)
    expected[::2, ::2] = expected[1::2, 1::2] = True
    assert torch.equal(seen, expected)


def test_a_few_candidates_together_have_all_layers():
    space, random = MacroSpace(layers=6), np.random.default_rng(0)
    held = {name for c in space.covering() for name, _ in space.build(c, 0).named_children()}
    for _ in range(10):
        assert {name for name, _ in space.build(space.sample(random), 0).named_children()} <= held


def test_the_seed_decides_and_the_global_state_is_left_alone():
    before, candidate = torch.random.get_rng_state(), next(iter(SMALL))
    a, b, other = (SMALL.build(candidate, seed).stem[0].weight for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers must be a whole number of 1"),
        ({"width": 3}, "width must be even"),
        ({"width": 0}, "width must be a whole number of 2"),
        ({"classes": 1}, "classes must be a whole number of 2"),
        ({"channels": 1.5}, "channels must be a whole number of 1"),
        ({"operations": ()}, "one or more different names"),
        ({"operations": ("conv3", "conv3")}, "one or more different names"),
        ({"operations": ("conv7",)}, "there is no operation 'conv7'"),
        ({"operations": ["conv3"]}, r"operations must be a tuple, not \['conv3'\]"),
    ],
)
def test_spaces_without_a_network_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MacroSpace(**options)


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (Macro(("conv3",), ((),)), "3 operations"),
        (Macro(("conv3",) * 3, ((), (), ())), "as many skips as layers before"),
        (Macro(("conv3", "conv5", "max3"), ((), (True,), (True, False))), "'conv5' is not in this space"),
    ],
)
def test_candidates_of_another_space_are_refused(candidate, message):
    for call in (SMALL.numbers, lambda c: SMALL.build(c, 0)):
        with pytest.raises(ValueError, match=message):
            call(candidate)
