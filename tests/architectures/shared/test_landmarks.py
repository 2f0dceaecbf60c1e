"""Landmarks: points of strokes and objects found one by one, and maps that give their points back."""

import math

import given
import pytest
import torch

from lib.architectures.shared.landmarks import Landmarks, extreme_points, heatmaps, object_centers, positions
from lib.binarization import bulat_binary_block


def strokes(n=30, height=9, width=6):
    return (torch.rand(n, 1, height, width, generator=given.generator()) > 0.95).float()


def test_extreme_points_are_those_found_one_by_one():
    images = strokes()
    found = extreme_points(images)
    assert found.size == (9, 6) and len(found) == 30 and found.visible.any() and not found.visible.all()
    for image, points, visible in zip(images[:, 0], found.points.tolist(), found.visible.tolist(), strict=True):
        pixels = image.nonzero().tolist()  # in reading order, and min takes the first of equals
        assert visible == 4 * [bool(pixels)]
        keys = (lambda p: p[0], lambda p: -p[0], lambda p: p[1], lambda p: -p[1])
        assert points == ([min(pixels, key=key) for key in keys] if pixels else 4 * [[0, 0]])


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0])
def test_maps_of_extreme_points_are_those_of_another_implementation(sigma):
    images = strokes()
    own = heatmaps(extreme_points(images), size=(9, 6), sigma=sigma)
    torch.testing.assert_close(own, bulat_binary_block.keypoints(images, sigma=sigma))


def test_the_threshold_says_what_is_stroke_for_any_type():
    image = torch.tensor([[0, 3, 9, 7, 0]])[None, None]
    assert extreme_points(image, threshold=5).points[0].tolist() == [[0, 2], [0, 2], [0, 2], [0, 3]]
    assert extreme_points(image.double(), threshold=2).points.dtype == torch.float64
    assert extreme_points(image.half(), threshold=2).points[0, 2].tolist() == [0, 1]


def objects_of(image, kind):
    """Sets of pixels of one class that touch, in reading order of their first pixels, by growing them one by one."""
    left = [tuple(p) for p in (image == kind).nonzero().tolist()]
    found = []
    while left:
        waiting, grown = [left[0]], []
        left.remove(left[0])
        while waiting:
            r, c = waiting.pop()
            grown.append((r, c))
            touching = [p for p in left if abs(p[0] - r) <= 1 and abs(p[1] - c) <= 1]
            waiting += touching
            left = [p for p in left if p not in touching]
        found.append(grown)
    return found


@pytest.mark.parametrize("pixels", [1, 5])
def test_centers_are_those_of_objects_grown_pixel_by_pixel(pixels):
    labels = torch.randint(0, 6, (12, 8, 7), generator=given.generator())
    labels[labels == 5] = 11
    kinds = (3, 0, 1)
    found = object_centers(labels, kinds=kinds, classes=5, void=11, pixels=pixels)
    assert found.visible.any() and (pixels == 1 or not found.visible.all())
    for i, image in enumerate(labels):
        for j, kind in enumerate(kinds):
            objects = objects_of(image, kind)
            largest = max(objects, key=len, default=[])  # the first of equals
            assert found.visible[i, j] == (len(largest) >= pixels)
            if found.visible[i, j]:
                center = [sum(p[axis] for p in largest) / len(largest) for axis in (0, 1)]
                assert found.points[i, j].tolist() == pytest.approx(center, rel=1e-6)
            else:
                assert found.points[i, j].tolist() == [0, 0]


def test_a_class_that_is_not_there_is_not_visible():
    found = object_centers(torch.zeros(2, 3, 3, dtype=torch.uint8), kinds=(0, 1), classes=2)
    assert found.visible.tolist() == 2 * [[True, False]] and found.points[0].tolist() == [[1, 1], [0, 0]]


def test_what_moves_in_the_image_moves_the_point():
    labels = torch.zeros(2, 9, 9, dtype=torch.long)
    labels[0, 1:4, 2:4] = labels[1, 4:7, 3:5] = 1
    points = object_centers(labels, kinds=(1,), classes=2).points
    assert (points[1] - points[0]).tolist() == [[3, 1]]


def some_points(n=20, size=(12, 20), dtype=torch.float32):
    places = torch.rand(n, 3, 2, generator=given.generator()).to(dtype) * torch.tensor(size, dtype=dtype) - 0.5
    visible = torch.rand(n, 3, generator=given.generator(1)) < 0.7
    return Landmarks(places, visible, size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_map_is_a_gaussian_around_its_point(dtype):
    landmarks = some_points(2, dtype=dtype)
    maps = heatmaps(landmarks, size=(6, 5), sigma=0.8)
    assert maps.dtype == dtype and maps.shape == (2, 3, 6, 5)
    for i in range(2):
        for j in range(3):
            r0, c0 = landmarks.points[i, j].tolist()
            r0, c0 = (r0 + 0.5) / 2 - 0.5, (c0 + 0.5) / 4 - 0.5  # the edge of the image stays its edge
            for r in range(6):
                for c in range(5):
                    h = math.exp(-((r - r0) ** 2 + (c - c0) ** 2) / (2 * 0.8**2)) * landmarks.visible[i, j].item()
                    assert maps[i, j, r, c].item() == pytest.approx(h, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("size", [(12, 20), (6, 10), (3, 5), (7, 9)])
def test_a_map_gives_its_point_back_to_half_of_its_pixel(size):
    landmarks = some_points()
    found = positions(heatmaps(landmarks, size=size, sigma=1.5), size=(12, 20))
    off = (found - landmarks.points).abs()[landmarks.visible]
    half = torch.tensor([12 / size[0] / 2, 20 / size[1] / 2])
    assert (off <= half + 1e-4).all() and (off > half / 2).any()


def test_points_on_pixels_come_back_exactly():
    landmarks = extreme_points(strokes())
    found = positions(heatmaps(landmarks, size=(9, 6)))
    assert torch.equal(found[landmarks.visible], landmarks.points[landmarks.visible])


def test_what_is_not_visible_has_an_empty_map():
    points = torch.tensor([[[math.nan, math.nan], [1.0, 1.0]]])
    maps = heatmaps(Landmarks(points, torch.tensor([[False, True]]), (3, 3)), size=(3, 3))
    assert not maps[0, 0].any() and maps[0, 1].max() == 1


def test_the_first_of_several_largest_values_is_taken():
    assert positions(torch.ones(1, 2, 3, 4)).tolist() == [[[0, 0], [0, 0]]]
    assert positions(torch.eye(3, dtype=torch.bfloat16)[None, None]).tolist() == [[[0, 0]]]


@pytest.mark.parametrize(
    ("points", "visible", "size", "message"),
    [
        ((1, 2), (1, 2), (3, 3), r"points \(n, k, 2\) and visible \(n, k\) are needed, not \(1, 2\) and \(1, 2\)"),
        ((1, 2, 2), (1, 3), (3, 3), r"not \(1, 2, 2\) and \(1, 3\)"),
        ((0, 2, 2), (0, 2), (3, 3), "at least one image and one point are needed"),
        ((1, 2, 2), (1, 2), (0, 3), "height must be a whole number of 1 or more, not 0"),
    ],
)
def test_landmarks_of_other_shapes_are_refused(points, visible, size, message):
    with pytest.raises(ValueError, match=message):
        Landmarks(torch.zeros(points), torch.zeros(visible, dtype=torch.bool), size)


@pytest.mark.parametrize("point", [[-0.6, 0.0], [0.0, 3.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_a_visible_point_outside_of_its_image_is_refused(point):
    with pytest.raises(ValueError, match="is visible, but not in an image of 2 x 3 pixels"):
        Landmarks(torch.tensor([[point]]), torch.tensor([[True]]), (2, 3))


def test_other_types_of_points_are_refused():
    whole, true = torch.zeros(1, 1, 2, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"floats and visible bool, not torch.int64 and torch.bool"):
        Landmarks(whole, true, (2, 2))
    with pytest.raises(ValueError, match=r"not torch.float32 and torch.float32"):
        Landmarks(whole.float(), true.float(), (2, 2))


def test_bad_images_and_numbers_are_refused():
    images, labels = strokes(2), torch.zeros(2, 4, 4, dtype=torch.long)
    landmarks = extreme_points(images)
    for other in (images[0], images[:0], images.expand(2, 3, 9, 6), images * math.nan):
        with pytest.raises(ValueError, match=r"images must be \(n, 1, height, width\) without NaN"):
            extreme_points(other)
    with pytest.raises(ValueError, match="threshold must be a finite number, not nan"):
        extreme_points(images, threshold=math.nan)
    for sigma in (0, -1, math.inf, math.nan, "1"):
        with pytest.raises(ValueError, match="sigma must be a finite number above 0"):
            heatmaps(landmarks, size=(3, 3), sigma=sigma)
    with pytest.raises(ValueError, match="width must be a whole number of 1 or more, not 0"):
        heatmaps(landmarks, size=(3, 0))
    for maps in (torch.zeros(1, 3, 3), torch.zeros(1, 1, 0, 3), torch.full((1, 1, 2, 2), math.nan)):
        with pytest.raises(ValueError, match=r"maps must be \(n, k, height, width\) finite"):
            positions(maps)
    with pytest.raises(ValueError, match="labels hold the class 7: accepted are 0 to 4"):
        object_centers(labels + 7, kinds=(1,), classes=5)
    for kinds in ((), (1, 1), (5,), (-1,)):
        with pytest.raises(ValueError, match="kinds must be different classes from 0 to 4"):
            object_centers(labels, kinds=kinds, classes=5)
    with pytest.raises(ValueError, match="pixels must be a whole number of 1 or more, not 0"):
        object_centers(labels, kinds=(1,), classes=5, pixels=0)
    with pytest.raises(ValueError, match=r"a pixel or more, not \(4, 4\)"):
        object_centers(labels[0], kinds=(1,), classes=5)
