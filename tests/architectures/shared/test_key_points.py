"""The share of points that were found, against a count one by one."""

import math

import given
import pytest
import torch

from lib.architectures.shared.key_points import pck
from lib.architectures.shared.landmarks import Landmarks, heatmaps


def test_correct_key_points_are_counted_one_by_one():
    points = Landmarks(
        torch.rand(20, 3, 2, generator=given.generator()) * torch.tensor([12, 20]) - 0.5,
        torch.rand(20, 3, generator=given.generator(1)) < 0.7,
        (12, 20),
    )
    maps = torch.randn(20, 3, 6, 5, generator=given.generator())
    for distance in (0, 2.0, 5, 30):
        right = []
        for i in range(20):
            for j in range(3):
                if points.visible[i, j]:
                    r, c = divmod(maps[i, j].argmax().item(), 5)
                    y, x = points.points[i, j].tolist()
                    right.append(math.hypot(2 * r + 0.5 - y, 4 * c + 1.5 - x) <= distance)
        assert pck(maps, points, distance=distance) == pytest.approx(100 * sum(right) / len(right))
    assert pck(maps, points, distance=30) == 100


def test_maps_of_the_points_themselves_are_all_correct():
    places = torch.randint(12, (9, 4, 2), generator=given.generator()).float()
    points = Landmarks(places, torch.ones(9, 4, dtype=torch.bool), (12, 12))
    assert pck(heatmaps(points, size=(12, 12)), points, distance=0) == 100


def test_what_is_not_visible_does_not_count():
    points = Landmarks(torch.tensor([[[0.0, 0.0], [math.nan, 5.0]]]), torch.tensor([[True, False]]), (3, 3))
    maps = torch.zeros(1, 2, 3, 3)
    assert pck(maps, points, distance=0) == 100


def test_bad_input_is_refused():
    points = Landmarks(torch.zeros(2, 3, 2), torch.ones(2, 3, dtype=torch.bool), (4, 4))
    hidden = Landmarks(torch.zeros(2, 3, 2), torch.zeros(2, 3, dtype=torch.bool), (4, 4))
    maps = torch.zeros(2, 3, 4, 4)
    for distance in (-1, math.nan, math.inf, "1"):
        with pytest.raises(ValueError, match="distance must be a finite number of 0 or more"):
            pck(maps, points, distance=distance)
    for other in (maps[:1], maps[:, :2], maps[0]):
        with pytest.raises(ValueError, match=r"do not fit points \(2, 3, 2\)"):
            pck(other, points, distance=1)
    with pytest.raises(ValueError, match="no point is visible"):
        pck(maps, hidden, distance=1)
    with pytest.raises(ValueError, match="finite numbers"):
        pck(maps * math.nan, points, distance=1)
