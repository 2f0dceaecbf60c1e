"""The embedded sets: scikit-learn's digits, whole and composed on photographs."""

import random
from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_digits
from small_sets import lengths, same

from lib import datasets
from lib.datasets import embedded


def test_digits_are_all_of_scikit_learns_resized():
    found, bunch = datasets.load("digits"), load_digits()
    parts = [found.train, found.validation, found.test]
    assert [len(p) for p in parts] == [1078, 270, 449] and found.classes == tuple("0123456789")
    assert np.array_equal(torch.cat([p.labels for p in parts]).bincount(), np.bincount(bunch.target))
    resized = torch.nn.functional.interpolate(
        torch.tensor(bunch.images[:, None] / 16).float(), (28, 28), mode="bilinear"
    )
    expected, ours = ({t.numpy().tobytes() for t in x} for x in (resized, torch.cat([p.images for p in parts])))
    assert ours == expected


def test_street_digits_are_the_digits_in_color():
    found, plain = datasets.load("street-digits"), datasets.load("digits")
    assert lengths(found) == lengths(plain) and found.classes == plain.classes
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(found, split).labels, getattr(plain, split).labels)
        images = getattr(found, split).images
        assert images.shape[1:] == (3, 32, 32) and images.dtype == torch.float32
        assert (
            images.min() >= 0
            and images.max() <= 1
            and len({image.numpy().tobytes() for image in images}) == len(images)
        )
    assert "digits composed on its two sample photographs" in found.source


def test_street_digits_are_the_same_each_time_and_leave_global_seeds_alone():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    found = datasets.load("street-digits")
    assert torch.equal(states[0], torch.get_rng_state()) and np.array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()
    torch.manual_seed(2)
    np.random.seed(2)
    assert same(found, datasets.load("street-digits"))


def test_a_composed_digit_is_brighter_than_the_darkened_photograph():
    digits, colored = torch.zeros(40, 8, 8), np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    digits[:, 2:6, 2:6] = 1
    blank, _ = embedded.composed(torch.zeros(40, 8, 8), [colored], np.random.RandomState(5))
    images, masks = embedded.composed(digits, [colored], np.random.RandomState(5))
    windows = np.lib.stride_tricks.sliding_window_view(0.4 / 255 * colored, (32, 32), axis=(0, 1))
    windows = windows.reshape(-1, 3, 32, 32).astype(np.float32)
    for crop, image, mask in zip(blank, images, masks, strict=True):
        assert np.abs(windows - crop.numpy()).max(axis=(1, 2, 3)).min() < 1e-6  # it is one of the photograph's
        changed = (image != crop).any(dim=0)
        rows, columns = torch.where(changed)
        assert 13 <= rows.max() - rows.min() + 1 <= 20 and 13 <= columns.max() - columns.min() + 1 <= 20
        assert (changed | ~mask).all() and 0.3 < mask.sum() / changed.sum() <= 1
        weights = torch.tensor([0.299, 0.587, 0.114])
        ink = image[:, mask].flatten(1).max(dim=1).values
        assert weights @ (ink - crop.mean(dim=(1, 2))) > 0.45 - 1e-5


def test_the_splits_of_street_digits_share_no_column_of_a_photograph(monkeypatch):
    seen = []
    monkeypatch.setattr(
        embedded,
        "composed",
        lambda digits, views, random: (seen.append(views), (torch.zeros(len(digits), 3, 32, 32), 0))[1],
    )
    datasets.load("street-digits")
    for photograph in range(2):
        ends = [views[photograph].__array_interface__["data"][0] for views in seen]
        widths = [views[photograph].shape[1] for views in seen]
        assert sum(widths) == 640 and min(widths) >= 64
        assert [(b - a) // 3 for a, b in pairwise(ends)] == widths[:2]  # side by side
