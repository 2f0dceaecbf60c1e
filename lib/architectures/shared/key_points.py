"""The score of a network that finds points: how many of them it found."""

from torch import Tensor

from lib.architectures.shared.landmarks import Landmarks, positions


def pck(maps: Tensor, landmarks: Landmarks, *, distance: float) -> float:
    r"""Compute the percentage of correct key points: how many visible points were found within a distance.

    .. math:: 100 \cdot \operatorname{mean}_{i\ \mathrm{visible}} \big[\, \lVert p_i - \hat p_i \rVert \le t \,\big]

    maps: (n, k, height, width) of any size, finite; a point is found where its map is largest.
    landmarks: the true points, in pixels of their images.
    distance: t, in pixels of the images, 0 or more. On human poses it is half of the head's size (PCKh).

    Returns percent. Raises ValueError for maps of other points, if no point is visible, and for another distance.

    >>> import torch
    >>> truth = Landmarks(torch.tensor([[[0.0, 0.0], [1.0, 2.0]]]), torch.tensor([[True, True]]), (2, 3))
    >>> pck(torch.eye(2, 3).expand(1, 2, 2, 3), truth, distance=1)
    50.0
    """
    if isinstance(distance, bool) or not isinstance(distance, int | float) or not 0 <= distance < float("inf"):
        raise ValueError(f"distance must be a finite number of 0 or more, not {distance!r}")
    if maps.dim() != 4 or maps.shape[:2] != landmarks.visible.shape:
        raise ValueError(f"maps {tuple(maps.shape)} do not fit points {tuple(landmarks.points.shape)}")
    if not landmarks.visible.any():
        raise ValueError("no point is visible: at least one is needed")
    found = positions(maps, size=landmarks.size).to(landmarks.points)
    # method
    missed = (found - landmarks.points).norm(dim=2)[landmarks.visible]
    return 100 * (missed <= distance).double().mean().item()
    # end of method
