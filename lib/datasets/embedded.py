"""Data sets that need no download: scikit-learn's digits, plain and composed on photographs."""

import numpy as np
import torch
from torch import Tensor

from lib.datasets import Dataset, Split
from lib.datasets.splits import numbers, shuffled


def digits() -> Dataset:
    """Load scikit-learn's 1,797 digits, resized from 8 x 8 to 28 x 28: 1,078 / 270 / 449 images (1, 28, 28)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 16
    images = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(bunch.target).long()
    train, validation, test = shuffled(images, labels, shares=(0.6, 0.15))
    return Dataset("digits", "scikit-learn's digits, 8 x 8 resized to 28 x 28", train, validation, test, numbers(10))


def street_digits() -> Dataset:
    """Load the same digits, in the same splits, on crops of two photographs: images (3, 32, 32).

    Each split has its own columns of the photographs.
    """
    from sklearn.datasets import load_digits, load_sample_images

    bunch, photographs = load_digits(), load_sample_images().images
    parts = shuffled(torch.from_numpy(bunch.images).float() / 16, torch.from_numpy(bunch.target), shares=(0.6, 0.15))
    splits, random = [], np.random.RandomState(0)
    for part, (left, right) in zip(parts, ((0.0, 0.6), (0.6, 0.75), (0.75, 1.0)), strict=True):
        views = [photo[:, round(left * photo.shape[1]) : round(right * photo.shape[1])] for photo in photographs]
        images, _ = composed(part.images, views, random)
        splits.append(Split(images, part.labels.long()))
    return Dataset(
        "street-digits",
        "scikit-learn's digits composed on its two sample photographs",
        splits[0],
        splits[1],
        splits[2],
        numbers(10),
    )


def composed(digits: Tensor, views: list[np.ndarray], random: np.random.RandomState) -> tuple[Tensor, Tensor]:
    """Compose each digit on a random crop of a random photograph, at a random place.

    The crop is darkened. The digit is 26 to 28 pixels high, of a random color that is brighter than the crop's mean by
    0.45 or more; a small network learns to read it in about fifty steps.

    digits: (n, 8, 8) in [0, 1].
    views: photographs, (height, width, 3) uint8.
    random: draws photographs, places, sizes and colors.

    Returns images (n, 3, 32, 32) in [0, 1], and where the digit's pixels are, (n, 32, 32) bool.
    """
    brightness = np.array([0.299, 0.587, 0.114])  # of red, green and blue
    images, masks = [], []
    for digit in digits:
        view = views[random.randint(len(views))]
        y, x = (random.randint(length - 32 + 1) for length in view.shape[:2])
        crop = 0.4 / 255 * view[y : y + 32, x : x + 32].transpose(2, 0, 1)
        size = random.randint(26, 29)
        y, x = random.randint(32 - size + 1, size=2)
        scaled = torch.nn.functional.interpolate(digit[None, None], size=(size, size), mode="bilinear")
        ink = np.zeros((32, 32))
        ink[y : y + size, x : x + size] = np.minimum(1, 2 * scaled[0, 0].numpy())
        needed = brightness @ crop.mean(axis=(1, 2)) + 0.45
        while brightness @ (color := random.random_sample(3)) < needed:
            pass
        images.append(crop * (1 - ink) + color[:, None, None] * ink)
        masks.append(ink >= 0.5)
    return torch.from_numpy(np.stack(images)).float(), torch.from_numpy(np.stack(masks))
