r"""Landmarks for networks that find points: extreme points of strokes, centers of objects, and their heat maps.

A point is (row, column) in pixels of its image, with (0, 0) the center of the first pixel. A network finds it by a heat
map, whose largest value is at the point (newell2016stacked; bulat2017binarized):

.. math:: h(r, c) = \exp\Big(-\frac{(r - r_0)^2 + (c - c_0)^2}{2 \sigma^2}\Big)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from lib.arguments import check_sizes
from lib.segmentation import check_labels


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points in images.

    points: (n, k, 2) row and column of each, floats; (0, 0) where a point is not visible.
    visible: (n, k) bool.
    size: height and width of the images in pixels.

    Raises ValueError for other shapes and types, and for a visible point outside of its image.
    """

    points: Tensor
    visible: Tensor
    size: tuple[int, int]

    def __post_init__(self) -> None:
        points, visible = self.points, self.visible
        if points.dim() != 3 or points.shape[2] != 2 or visible.shape != points.shape[:2]:
            shapes = f"{tuple(points.shape)} and {tuple(visible.shape)}"
            raise ValueError(f"points (n, k, 2) and visible (n, k) are needed, not {shapes}")
        if not points.is_floating_point() or visible.dtype != torch.bool:
            raise ValueError(f"points must be floats and visible bool, not {points.dtype} and {visible.dtype}")
        height, width = self.size
        check_sizes({"height": height, "width": width})
        if not len(points) or not points.shape[1]:
            raise ValueError(f"at least one image and one point are needed, not points {tuple(points.shape)}")
        seen = points[visible]
        # a point may be anywhere on a pixel; NaN is nowhere
        inside = (seen >= -0.5) & (seen <= seen.new_tensor([height - 0.5, width - 0.5]))
        if not inside.all():
            outside = seen[~inside.all(1)][0].tolist()
            raise ValueError(f"the point {outside} is visible, but not in an image of {height} x {width} pixels")

    def __len__(self) -> int:
        return len(self.points)

    def moved(self, size: tuple[int, int]) -> Tensor:
        """The points in pixels of the same images at another size, as (n, k, 2).

        size: height and width of that, 1 or more. Half a pixel is the edge of an image at any size.

        >>> Landmarks(torch.tensor([[[0.0, 3.0]]]), torch.tensor([[True]]), (4, 4)).moved((2, 8)).tolist()
        [[[-0.25, 6.5]]]
        """
        check_sizes({"height": size[0], "width": size[1]})
        factors = self.points.new_tensor(size) / self.points.new_tensor(self.size)
        return (self.points + 0.5) * factors - 0.5


def heatmaps(landmarks: Landmarks, *, size: tuple[int, int], sigma: float = 1.0) -> Tensor:
    """Draw a Gaussian around each point; the map of a point that is not visible is 0 everywhere.

    landmarks: the points.
    size: height and width of the maps, 1 or more; the points are brought to it.
    sigma: of the Gaussian, in pixels of a map, finite and above 0, default 1.

    Returns (n, k, height, width), in the type of the points, in [0, 1]: 1 where a point is the center of a pixel.
    Raises ValueError for other values.

    >>> one = Landmarks(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[True]]), (3, 3))
    >>> heatmaps(one, size=(3, 3), sigma=0.5)[0, 0, 1]  # the row of the point
    tensor([3.3546e-04, 1.3534e-01, 1.0000e+00])
    """
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 < sigma < float("inf"):
        raise ValueError(f"sigma must be a finite number above 0, not {sigma!r}")
    points = landmarks.moved(size)
    # method
    rows, columns = (torch.arange(n, dtype=points.dtype, device=points.device) for n in size)
    # h(r, c) is the product of a Gaussian of the row and one of the column
    of_row = torch.exp(-(rows - points[..., :1]).square() / (2 * sigma**2))
    of_column = torch.exp(-(columns - points[..., 1:]).square() / (2 * sigma**2))
    # end of method
    return (of_row[..., None] * of_column[..., None, :]).masked_fill(~landmarks.visible[..., None, None], 0.0)


def positions(maps: Tensor, *, size: tuple[int, int] | None = None) -> Tensor:
    """Find the largest value of each heat map; the first in reading order if there are several.

    maps: (n, k, height, width), finite, with a pixel or more.
    size: height and width of the images in whose pixels the points are wanted; None (default): those of the maps.

    Returns (n, k, 2): row and column, in pixels of the images. A map that is smaller than its image locates a point to
    half of its own pixels. Left out: the shift by a quarter of a pixel towards the second largest value, as in
    newell2016stacked.
    Raises ValueError for other maps.

    >>> positions(torch.tensor([[[[0.0, 0.1], [0.9, 0.2]]]]), size=(4, 4)).tolist()
    [[[2.5, 0.5]]]
    """
    if maps.dim() != 4 or not maps.shape[2] * maps.shape[3] or not torch.isfinite(maps).all():
        raise ValueError(f"maps must be (n, k, height, width) finite numbers, not {tuple(maps.shape)} of {maps.dtype}")
    height, width = maps.shape[2:]
    places = maps.flatten(2).argmax(2)
    points = torch.stack([places // width, places % width], 2).to(torch.promote_types(maps.dtype, torch.float32))
    found = Landmarks(points, torch.ones_like(places, dtype=torch.bool), (height, width))
    return found.moved((height, width) if size is None else size)


def extreme_points(images: Tensor, *, threshold: float = 0.5) -> Landmarks:
    """Find the topmost, bottommost, leftmost and rightmost pixel of each stroke: a toy, computed from pixels.

    The first in reading order if there are several. Digits have no landmarks that people have marked; these four have
    right answers, and a network must look at the whole digit to find them.

    images: (n, 1, height, width) of digits, n and pixels of 1 or more.
    threshold: pixels above it are the stroke, default 0.5.

    Returns four points for each image, in this order, none of them visible in an image without a stroke.
    Raises ValueError for images of another shape, NaN in them, and a threshold that is not finite.

    >>> extreme_points(torch.eye(3)[None, None]).points.tolist()
    [[[0.0, 0.0], [2.0, 2.0], [0.0, 0.0], [2.0, 2.0]]]
    """
    if images.dim() != 4 or images.shape[1] != 1 or not images.numel() or images.isnan().any():
        raise ValueError(f"images must be (n, 1, height, width) without NaN, n 1 or more, not {tuple(images.shape)}")
    if isinstance(threshold, bool) or not abs(threshold) < float("inf"):
        raise ValueError(f"threshold must be a finite number, not {threshold!r}")
    height, width = images.shape[2:]
    stroke = images[:, 0] > threshold
    rows, columns = stroke.any(2).int(), stroke.any(1).int()
    top, left = rows.argmax(1), columns.argmax(1)
    bottom, right = height - 1 - rows.flip(1).argmax(1), width - 1 - columns.flip(1).argmax(1)
    n = torch.arange(len(images), device=images.device)
    # the first pixel of that row or column
    across = [(row, stroke[n, row].int().argmax(1)) for row in (top, bottom)]
    down = [(stroke[n, :, column].int().argmax(1), column) for column in (left, right)]
    visible = stroke.flatten(1).any(1)[:, None].expand(-1, 4)
    points = torch.stack([torch.stack(point, 1) for point in (*across, *down)], 1)
    points = (points * visible[..., None]).to(torch.promote_types(images.dtype, torch.float32))
    return Landmarks(points, visible.contiguous(), (height, width))


def object_centers(
    labels: Tensor, *, kinds: Sequence[int], classes: int, void: int | None = None, pixels: int = 1
) -> Landmarks:
    """Find the center of the largest object of each class: the mean place of its pixels.

    An object is a set of pixels of one class that touch, also at corners; the first in reading order if several are
    largest. Objects of one class that touch are one. The center may lie outside of an object that is not convex.

    labels: (n, height, width) class numbers, n and pixels of 1 or more.
    kinds: the k classes whose objects are wanted, different ones.
    classes: number of classes, 2 or more.
    void: number of pixels without a class, default None.
    pixels: that an object must have at least, 1 or more, default 1.

    Returns k points for each image, float32; visible where an image has such an object.
    Raises ValueError for labels of another shape, unknown classes, and kinds that are none or not different.

    >>> scene = torch.tensor([[[2, 0, 1, 1], [0, 0, 1, 1], [2, 2, 0, 0]]])
    >>> found = object_centers(scene, kinds=(1, 2), classes=4)
    >>> found.points.tolist(), found.visible.tolist()
    ([[[0.5, 2.5], [2.0, 0.5]]], [[True, True]])
    """
    check_labels(labels, classes=classes, void=void)
    check_sizes({"pixels": pixels})
    if labels.dim() != 3 or not labels.numel():
        raise ValueError(f"labels must be (n, height, width) with a pixel or more, not {tuple(labels.shape)}")
    if not kinds or len({*kinds}) < len(kinds) or not {*kinds} <= {*range(classes)}:
        raise ValueError(f"kinds must be different classes from 0 to {classes - 1}, not {tuple(kinds)}")
    points, visible = np.zeros((len(labels), len(kinds), 2)), np.zeros((len(labels), len(kinds)), dtype=bool)
    for i, image in enumerate(labels.cpu().numpy()):
        for j, kind in enumerate(kinds):
            # method
            objects, _ = ndimage.label(image == kind, structure=np.ones((3, 3)))
            sizes = np.bincount(objects.ravel())[1:]
            if sizes.size and sizes.max() >= pixels:
                points[i, j] = np.argwhere(objects == 1 + sizes.argmax()).mean(0)
                visible[i, j] = True
            # end of method
    height, width = labels.shape[1:]
    return Landmarks(
        torch.from_numpy(points).float().to(labels.device), torch.from_numpy(visible).to(labels.device), (height, width)
    )
