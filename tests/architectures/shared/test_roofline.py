"""The roofline: what convolutions demand, by hand, and what limits them on planted peaks."""

import copy

import pytest
import torch
from given import equal
from torch import nn

from lib import measure
from lib.architectures.shared.roofline import Demands, Peaks, bound_ms, demands, limit, peaks

PLANTED = Peaks(multiply_adds=50, memory=10)  # both limits are equal at 5 multiply-adds for each byte


@pytest.mark.parametrize(
    ("layer", "shape", "batch", "work", "floats"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, bias=False), (4, 5, 7), 1, 35 * 6 * 36, 4 * 35 + 6 * 36 + 6 * 35),
        (nn.Conv2d(4, 6, 3), (4, 5, 7), 2, 2 * 15 * 6 * 36, 2 * 4 * 35 + 6 * 36 + 6 + 2 * 6 * 15),
        (nn.Conv2d(4, 8, 3, stride=2, groups=4), (4, 9, 9), 1, 16 * 8 * 9, 4 * 81 + 8 * 9 + 8 + 8 * 16),
        (nn.Conv2d(6, 4, 1, groups=2, bias=False), (6, 3, 3), 3, 3 * 9 * 4 * 3, 3 * 54 + 12 + 3 * 36),
        (nn.Conv2d(1, 1, 3, padding="same", bias=False), (1, 4, 4), 1, 16 * 9, 16 + 9 + 16),
        (nn.Conv2d(2, 2, 3, dilation=2, padding=2, padding_mode="reflect"), (2, 4, 4), 1, 576, 32 + 36 + 2 + 32),
        (nn.Conv1d(2, 3, 5), (2, 9), 1, 5 * 3 * 10, 18 + 30 + 3 + 15),
        (nn.Conv3d(1, 2, 2), (1, 3, 3, 3), 1, 8 * 2 * 8, 27 + 16 + 2 + 16),
    ],
)
def test_demands_are_those_counted_by_hand(layer, shape, batch, work, floats):
    before = copy.deepcopy(layer)
    found = demands(layer, shape, batch=batch)
    assert found == Demands(work, 4 * floats) and found.intensity == work / (4 * floats)
    assert found.multiply_adds == batch * measure.multiply_adds(layer, shape)
    assert equal(layer, before)


def test_depthwise_and_dense_are_limited_by_different_sides():
    sides = {
        groups: limit(demands(nn.Conv2d(64, 64, 3, padding=1, groups=groups), (64, 56, 56)), PLANTED)
        for groups in (1, 64)
    }
    assert sides == {1: "multiply-adds", 64: "memory"}


@pytest.mark.parametrize(
    ("work", "moved", "side", "ms"),
    [(50_000_000, 9_999, "multiply-adds", 1), (50, 10_000_000, "memory", 1), (50_000, 10_000, "multiply-adds", 1e-3)],
)
def test_the_larger_time_is_the_bound(work, moved, side, ms):
    assert bound_ms(Demands(work, moved), PLANTED) == pytest.approx(ms, rel=1e-12)
    assert limit(Demands(work, moved), PLANTED) == side and PLANTED.ridge == 5


def test_separable_needs_a_ninth_of_the_work_but_not_of_the_bytes():
    whole = demands(nn.Conv2d(256, 256, 3, padding=1, bias=False), (256, 28, 28))
    halves = [
        demands(nn.Conv2d(256, 256, 3, padding=1, groups=256, bias=False), (256, 28, 28)),
        demands(nn.Conv2d(256, 256, 1, bias=False), (256, 28, 28)),
    ]
    assert sum(half.multiply_adds for half in halves) * 9 * 256 == whole.multiply_adds * (9 + 256)
    assert sum(half.bytes for half in halves) == 4 * (4 * 256 * 28 * 28 + 9 * 256 + 256 * 256)
    assert whole.bytes == 4 * (2 * 256 * 28 * 28 + 9 * 256 * 256)


def test_measured_peaks_are_positive_and_give_a_positive_bound():
    measured = peaks(runs=20, side=32, megabytes=0.1)
    assert measured.multiply_adds > 0 and measured.memory > 0
    assert bound_ms(demands(nn.Conv2d(2, 2, 1), (2, 4, 4)), measured) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: demands(nn.Linear(3, 4), (3,)), "Linear of torch.float32: the roofline only takes convolutions"),
        (lambda: demands(nn.ReLU(), (3, 4, 4)), "ReLU: the roofline only takes convolutions"),
        (lambda: demands(nn.ConvTranspose2d(3, 4, 2), (3, 4, 4)), "ConvTranspose2d of torch.float32"),
        (lambda: demands(nn.Conv2d(3, 4, 3).double(), (3, 8, 8)), "of torch.float64"),
        (lambda: demands(nn.Conv2d(3, 4, 3), (4, 8, 8)), r"does not take images of shape \(4, 8, 8\)"),
        (lambda: demands(nn.Conv2d(3, 4, 3), (3, 2, 8)), r"does not take images of shape \(3, 2, 8\)"),
        (lambda: demands(nn.Conv2d(3, 4, 3), (8, 8), batch=3), "images of 3 dimensions without the batch"),
        (lambda: demands(nn.Conv2d(3, 4, 3), (3, 0, 8)), r"shape\[1\] must be a whole number of 1 or more, not 0"),
        (lambda: demands(nn.Conv2d(3, 4, 3), (3, 8, 8), batch=0), "batch must be a whole number of 1 or more, not 0"),
        (lambda: peaks(runs=3), "runs must be at least 20"),
        (lambda: peaks(side=0), "side must be a whole number of 1 or more, not 0"),
        (lambda: peaks(megabytes=0), "megabytes must be a finite number above 0, not 0"),
        (lambda: Peaks(multiply_adds=0, memory=1), "multiply_adds must be a finite number above 0, not 0"),
        (lambda: Peaks(multiply_adds=1, memory=float("nan")), "memory must be a finite number above 0, not nan"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_layer_on_the_meta_device_has_the_same_demands():
    layer = nn.Conv2d(8, 16, 3, groups=4)
    assert demands(copy.deepcopy(layer).to(torch.device("meta")), (8, 6, 6)) == demands(layer, (8, 6, 6))
