"""Stacks against the one filter that they are, what they see against the sum, counts against the formulas."""

import copy

import given
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from lib import measure, training
from lib.architectures import filter_sizes
from lib.architectures.filter_sizes import composed, lines, network, stack, threes
from lib.architectures.shared.network import Network
from lib.architectures.shared.receptive_field import receptive_field

DOUBLE = torch.float64


def drawn(*shape, dtype=DOUBLE, seed=0):
    return torch.randn(*shape, generator=given.generator(seed), dtype=DOUBLE).to(dtype)


@pytest.mark.parametrize("channels", [(1, 1, 1), (3, 4, 5)])
@pytest.mark.parametrize("sizes", [((3, 3), (3, 3)), ((1, 5), (5, 1)), ((2, 4), (3, 1)), ((1, 1), (3, 3))])
def test_two_convolutions_are_one_in_float64(channels, sizes):
    inputs, middle, outputs = channels
    first, second = drawn(middle, inputs, *sizes[0]), drawn(outputs, middle, *sizes[1], seed=1)
    images, one = drawn(2, inputs, 11, 9, seed=2), composed(first, second)
    assert one.shape == (outputs, inputs, sizes[0][0] + sizes[1][0] - 1, sizes[0][1] + sizes[1][1] - 1)
    expected = conv2d(conv2d(images, first), second)
    assert (conv2d(images, one) - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("strides", [(2, 1), (1, 2), (2, 3), ((1, 2), (3, 1))])
def test_strides_multiply_and_the_first_padding_stays(strides):
    first, second, images = drawn(4, 3, 3, 3), drawn(5, 4, 2, 3, seed=1), drawn(2, 3, 17, 19, seed=2)
    expected = conv2d(conv2d(images, first, stride=strides[0], padding=(1, 2)), second, stride=strides[1])
    pairs = [step if isinstance(step, tuple) else (step, step) for step in strides]
    both = tuple(a * b for a, b in zip(*pairs, strict=True))
    ours = conv2d(images, composed(first, second, stride=strides[0]), stride=both, padding=(1, 2))
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_the_kernel_is_the_sum_that_the_equation_says():
    first, second = drawn(2, 3, 2, 3), drawn(4, 2, 3, 2, seed=1)
    expected = torch.zeros(4, 3, 2 + 2 * 2, 3 + 2 * 1, dtype=DOUBLE)
    for a in ((y, x) for y in range(2) for x in range(3)):
        for b in ((y, x) for y in range(3) for x in range(2)):
            expected[:, :, a[0] + 2 * b[0], a[1] + 2 * b[1]] += second[:, :, *b] @ first[:, :, *a]
    torch.testing.assert_close(composed(first, second, stride=2), expected, rtol=0, atol=1e-14)


def test_composing_is_associative_and_an_identity_changes_nothing():
    a, b, c = drawn(2, 3, 3, 3), drawn(4, 2, 3, 3, seed=1), drawn(5, 4, 3, 3, seed=2)
    torch.testing.assert_close(composed(composed(a, b), c), composed(a, composed(b, c)), rtol=1e-13, atol=1e-13)
    assert composed(composed(a, b), c).shape[2:] == (7, 7)
    identity = torch.eye(2, dtype=DOUBLE)[:, :, None, None]
    assert torch.equal(composed(a, identity), a)


def test_padding_in_the_middle_breaks_the_identity_at_the_border_only():
    first, second, images = drawn(1, 1, 3, 3), drawn(1, 1, 3, 3, seed=1), drawn(1, 1, 9, 9, seed=2)
    gap = conv2d(conv2d(images, first, padding=1), second, padding=1) - conv2d(
        images, composed(first, second), padding=2
    )
    assert gap[..., 1:-1, 1:-1].abs().max() < 1e-12 < gap.abs().max()


def test_most_large_filters_are_no_stack_of_small_ones():
    pair = (drawn(1, 1, 3, 3), drawn(1, 1, 3, 3, seed=1))
    by_first, by_second = torch.autograd.functional.jacobian(lambda a, b: composed(a, b).flatten(), pair)
    directions = torch.cat([by_first.flatten(1), by_second.flatten(1)], 1)
    # 18 weights, of which a factor can move from one filter to the other, span 17 of 25 dimensions
    assert directions.shape == (25, 18) and torch.linalg.matrix_rank(directions) == 17


def test_a_row_and_a_column_filter_are_one_of_rank_one():
    one = composed(drawn(1, 1, 1, 7), drawn(1, 1, 7, 1, seed=1))[0, 0]
    assert one.shape == (7, 7) and torch.linalg.matrix_rank(one) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_types_and_strided_memory_give_the_same_kernel(dtype):
    first, second = drawn(3, 4, 3, 3).transpose(0, 1), drawn(5, 4, 3, 3, seed=1)[..., ::2]
    ours = composed(first.to(dtype), second.to(dtype))
    assert ours.dtype == dtype
    expected = composed(first.contiguous(), second.contiguous())
    assert (ours.double() - expected).abs().max() < 40 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (drawn(2, 3, 3, 3), drawn(4, 3, 3, 3), r"not \(2, 3, 3, 3\) and \(4, 3, 3, 3\)"),
        (drawn(3, 3, 3), drawn(4, 3, 3, 3), "kernels must be"),
        (drawn(3, 0, 3, 3), drawn(4, 3, 3, 3), "none of them 0"),
        (drawn(3, 3, 3, 3), drawn(4, 3, 3, 3, dtype=torch.float32), "floats of one type, not torch.float64 and"),
        (drawn(3, 3, 3, 3).long(), drawn(4, 3, 3, 3).long(), "floats of one type, not torch.int64"),
        (drawn(3, 3, 3, 3) / 0, drawn(4, 3, 3, 3), "hold NaN or infinity"),
        (drawn(3, 3, 3, 3), drawn(4, 3, 3, 3) * float("nan"), "hold NaN or infinity"),
    ],
)
def test_kernels_that_do_not_follow_each_other_are_refused(first, second, says):
    with pytest.raises(ValueError, match=says):
        composed(first, second)


@pytest.mark.parametrize("stride", [0, -1, (1, 0), (1, 1, 1), 1.5])
def test_a_stride_that_is_none_is_refused(stride):
    with pytest.raises(ValueError, match="must be"):
        composed(drawn(1, 1, 3, 3), drawn(1, 1, 3, 3), stride=stride)


def place_counts(sizes, outputs=6, inputs=6):
    return measure.parameters(stack(inputs, outputs, sizes)) - 2 * outputs * len(sizes)  # without batch norm


def test_counts_are_those_of_the_formulas():
    squared = 6**2
    assert [place_counts([size]) for size in (1, 3, 5, 7)] == [squared, 9 * squared, 25 * squared, 49 * squared]
    assert place_counts(threes(5)) * 25 == place_counts([5]) * 18
    assert place_counts(threes(7)) * 49 == place_counts([7]) * 27
    # the paper (simonyan2015very, section 2.3) says it the other way round: 81 % more
    assert round(100 * (place_counts([7]) / place_counts(threes(7)) - 1)) == 81
    for size in (2, 3, 5, 7):
        assert place_counts(lines(size)) == 2 * size * squared
    # from 4 to 6 channels the second filter of a stack already has 6 inputs
    assert place_counts(threes(5), inputs=4) == 9 * (4 * 6 + 6 * 6)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("sizes", [[1], [5], [3, 3], [7], [3, 3, 3], [(1, 7), (7, 1)], [2, 4], [(3, 2)]])
def test_a_stack_keeps_the_size_and_sees_the_sum(sizes):
    model = stack(2, 3, sizes)
    assert model(torch.rand(2, 2, 9, 8)).shape == (2, 3, 9, 8)
    pairs = [size if isinstance(size, tuple) else (size, size) for size in sizes]
    expected = tuple(1 + sum(pair[axis] - 1 for pair in pairs) for axis in (0, 1))
    assert receptive_field(model, (2, 15, 15)) == expected


def test_a_stack_sees_as_much_as_the_filter_in_its_place():
    for size in (3, 5, 7, 9):
        for sizes in (threes(size), lines(size)):
            assert receptive_field(stack(2, 2, sizes), (2, 15, 15)) == (size, size)


def test_networks_have_equal_widths_and_the_ratio_of_the_paper():
    sizes = {"5": ((5,), (5,)), "3+3": ((3, 3), (3, 3)), "lines": (lines(5), lines(5)), "1": ((1,), (1,))}
    models = {name: network(channels=1, classes=10, width=0.25, sizes=each) for name, each in sizes.items()}
    convs = {
        name: sum(p.numel() for key, p in model.named_parameters() if "stack" in key and p.dim() == 4)
        for name, model in models.items()
    }
    assert convs == {"5": 50 * 64, "3+3": 36 * 64, "lines": 20 * 64, "1": 2 * 64}
    adds = {name: measure.multiply_adds_by_layer(model, (1, 8, 8)) for name, model in models.items()}
    assert sum(value for key, value in adds["3+3"].items() if "stack" in key) == 18 * 64 * (64 + 16)
    assert sum(value for key, value in adds["5"].items() if "stack" in key) == 25 * 64 * (64 + 16)
    for model in models.values():
        assert isinstance(model, Network) and model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_networks_of_small_filters_see_as_much_except_for_single_pixels():
    def seen(sizes):
        model = network(classes=10, width=0.1, sizes=sizes)
        return receptive_field(nn.Sequential(*list(model.children())[:-3]), (3, 40, 40))

    assert seen([[5], [5]]) == seen([[3, 3], [3, 3]]) == seen([lines(5), lines(5)]) == (14, 14)
    assert seen([[1], [1]]) == (2, 2)


def test_the_least_image_is_one_pixel_for_each_pool():
    model = network(classes=2, width=0.1, sizes=[[3]] * 4).eval()
    assert model.least == 8 and model(torch.zeros(1, 3, 8, 8)).shape == (1, 2)
    with pytest.raises(ValueError, match="with 8 pixels or more"):
        model(torch.zeros(1, 3, 7, 8))


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a, b, c = network(1, width=0.1), network(1, width=0.1), network(2, width=0.1)
    assert torch.equal(torch.get_rng_state(), before)
    assert given.equal(a, b) and not given.equal(a, c)
    copied = copy.deepcopy(a).double()
    copied.load_state_dict(c.state_dict())
    images = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(copied(images.double()).float(), c(images), rtol=1e-4, atol=1e-5)


def test_a_network_of_each_size_learns():
    split = given.split(20, 1, 6, 6, classes=2)
    split.images[split.labels == 1] += 0.5
    for sizes in (((5,),), ((3, 3),), (lines(5),)):
        model = network(channels=1, classes=2, width=0.1, sizes=sizes)
        losses = training.fit(model, split, epochs=6, seed=0, learning_rate=0.1, batch_size=20)
        assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"channels": 0}, "channels must be a whole number of 1 or more, not 0"),
        ({"classes": 1}, "classes must be a whole number of 2 or more, not 1"),
        ({"width": 0}, "width must be a finite number above 0, not 0"),
        ({"width": float("nan")}, "width must be a finite number above 0"),
        ({"sizes": ()}, "sizes must hold the sizes of one stack or more"),
        ({"sizes": ((5,), ())}, r"sizes must be pixels or \(height, width\), one or more of them, not \(\)"),
        ({"sizes": ((0,),)}, "height must be a whole number of 1 or more, not 0"),
        ({"sizes": (((3, 3, 3),),)}, r"sizes must be pixels or \(height, width\)"),
        ({"sizes": ((2.5,),)}, r"sizes must be pixels or \(height, width\)"),
        ({"sizes": "5"}, "sizes must hold the sizes of one stack or more, not '5'"),
    ],
)
def test_networks_of_bad_sizes_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        network(**options)


def test_sizes_without_a_stack_are_refused():
    for size in (4, 1):
        with pytest.raises(ValueError, match=f"size must be odd and 3 or more, not {size}"):
            threes(size)
    with pytest.raises(ValueError, match="size must be 2 or more, not 1"):
        lines(1)
    for function in (threes, lines):
        with pytest.raises(ValueError, match=r"size must be a whole number of 1 or more, not 3\.0"):
            function(3.0)
    with pytest.raises(ValueError, match="outputs must be a whole number of 1 or more, not 0"):
        filter_sizes.stack(3, 0, [3])
