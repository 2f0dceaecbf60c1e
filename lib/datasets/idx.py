"""MNIST and Fashion-MNIST: four idx files each, plain or gzipped, as published."""

import gzip
import hashlib
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lib.datasets import Dataset, Split, places
from lib.datasets.splits import describe, numbers

# SHA-256 of each set's four files, unpacked, in the order of places.PARTS: a damaged file is an error, not a slightly
# different data set.
SHA256 = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion-mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
CLASSES = {
    "mnist": numbers(10),
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
VALIDATION = 5_000  # the last of the 60,000 training images


def load(name: str, first: tuple[int, ...] | None) -> Dataset:
    """Load 55,000 / 5,000 / 10,000 images (1, 28, 28) in the published order.

    name: "mnist" or "fashion-mnist".
    first: the largest number of images of each split, None for all.

    Raises FileNotFoundError if the set is missing and cannot be downloaded, ValueError if it is damaged.
    """
    files = places.obtain(name, partial(download, name))
    train_images, train_labels, test_images, test_labels = (
        read(file, sha256, TITLES[name]) for file, sha256 in zip(files, SHA256[name], strict=True)
    )
    kept = len(train_labels) - VALIDATION
    parts = [
        (train_images[:kept], train_labels[:kept]),
        (train_images[kept:], train_labels[kept:]),
        (test_images, test_labels),
    ]
    splits = []
    for (images, labels), n in zip(parts, first or (None, None, None), strict=True):
        scaled = torch.from_numpy(images[:n, None]).float().div_(255)
        splits.append(Split(scaled, torch.from_numpy(labels[:n]).long()))
    source = describe(
        f"{TITLES[name]}, the published files", [len(labels) for _, labels in parts], [len(split) for split in splits]
    )
    return Dataset(name, source, splits[0], splits[1], splits[2], CLASSES[name])


def read(file: Path, sha256: str, title: str) -> np.ndarray:
    """Read an idx file of bytes.

    file: plain or gzipped (``.gz``).
    sha256: of the unpacked content.
    title: of the set, for messages.

    Returns a uint8 array of the shape in the file's header. Raises ValueError if it is not the published file.
    """
    content = file.read_bytes()
    if file.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{file} is damaged: {error}") from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{file} is damaged: its SHA-256 is {found[:12]}…, {title}'s is {sha256[:12]}…")
    # Two zero bytes, the type (8: unsigned bytes), the number of dimensions, each dimension in four bytes, the values.
    shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return np.frombuffer(bytearray(content), np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def download(name: str, home: Path) -> None:
    """Download the published files, gzipped, from the addresses that torchvision knows.

    name: "mnist" or "fashion-mnist".
    home: the data folder.
    """
    from lib.vision import torchvision

    published = {"mnist": torchvision.datasets.MNIST, "fashion-mnist": torchvision.datasets.FashionMNIST}[name]
    for file, md5 in published.resources:
        target = home / published.__name__ / "raw" / file
        places.fetch([mirror + file for mirror in published.mirrors], target, f"md5:{md5}")
