"""CIFAR-10, from a folder or zip of images, or from the published files."""

import tarfile
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from lib.datasets import Dataset, Split, image_folder, places
from lib.datasets.splits import describe, rounds

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PER_CLASS = {"train": 5_000, "test": 1_000}  # a copy with other numbers is incomplete


def load(first: tuple[int, ...] | None) -> Dataset:
    """Load CIFAR-10 from a folder or zip of images, or from the published files.

    Each split cycles through the ten classes.

    first: the largest number of images of each split, None for all; no others are decoded.

    Raises FileNotFoundError if the set is missing and cannot be downloaded, ValueError if it is damaged.
    """
    (path,) = places.obtain("cifar10", download)
    return published(path, first) if path.name == "cifar-10-batches-py" else from_images(path, first)


def from_images(path: Path, first: tuple[int, ...] | None) -> Dataset:
    """Load CIFAR-10 from a folder or zip ``<split>/<class>/<image>``.

    path: of the folder or zip.
    first: the largest number of images of each split, None for all.

    Raises ValueError if it is not the whole of CIFAR-10.
    """
    files = image_folder.listed(path)
    for split in sorted({*PER_CLASS, *files.members}):
        found = np.bincount(files.members.get(split, ([], []))[1], minlength=len(files.classes)).tolist()
        if files.classes != CLASSES or found != [PER_CLASS.get(split, 0)] * len(CLASSES):
            holds = ", ".join(f"{n:,} {label}" for n, label in zip(found[:12], files.classes, strict=False))
            accepted = " and ".join(f"{n:,} {split} images" for split, n in PER_CLASS.items())
            raise ValueError(
                f"{path} is not the whole of CIFAR-10: its {split} images are {holds or 'none'};"
                f" accepted are {accepted} of each of {', '.join(CLASSES)}"
            )

    def pixels(split: str, chosen: np.ndarray) -> np.ndarray:
        found = image_folder.pixels(path, files.archive.read, [files.members[split][0][i] for i in chosen], None, False)
        if found.shape[2:] != (32, 32):
            raise ValueError(f"{path} is not CIFAR-10: its images are {found.shape[2]} x {found.shape[3]}, not 32 x 32")
        return found

    one = files.members["train"][0][0]
    made = "JPEG at quality 75" if quality_75(files.archive.read(one), one) else f"the images of {path.name}"
    return divided({s: np.array(labels) for s, (_, labels) in files.members.items()}, pixels, made, first)


def download(home: Path) -> None:
    """Download the published files from the address that torchvision knows.

    home: the data folder.
    """
    from lib.vision import torchvision

    published = torchvision.datasets.CIFAR10
    packed = places.fetch(published.url, home / published.filename, f"md5:{published.tgz_md5}")
    with tempfile.TemporaryDirectory(dir=home) as folder:
        with tarfile.open(packed) as archive:
            archive.extractall(folder, filter="data")
        (Path(folder) / published.base_folder).rename(home / published.base_folder)
    packed.unlink()


def published(path: Path, first: tuple[int, ...] | None) -> Dataset:
    """Load CIFAR-10 from the published files, whose MD5 torchvision checks.

    path: of the folder ``cifar-10-batches-py``.
    first: the largest number of images of each split, None for all.

    Raises ValueError if a file is damaged or missing.
    """
    from lib.vision import torchvision

    try:
        parts = {
            s: torchvision.datasets.CIFAR10(path.parent, train=s == "train") for s in ("train", "test")
        }  # checks MD5
    except Exception as error:
        raise ValueError(f"{path} is damaged or not whole: {error}") from error

    def pixels(split: str, chosen: np.ndarray) -> np.ndarray:
        return parts[split].data[chosen].transpose(0, 3, 1, 2)

    return divided({s: np.array(part.targets) for s, part in parts.items()}, pixels, "the published files", first)


def divided(
    labels: dict[str, np.ndarray],
    pixels: Callable[[str, np.ndarray], np.ndarray],
    made: str,
    first: tuple[int, ...] | None,
) -> Dataset:
    """Divide CIFAR-10 into 45,000 / 5,000 / 10,000 images; only those asked for are decoded, one split at a time.

    labels: split ("train", "test") -> class number of each image.
    pixels: called with the split and the numbers of the chosen images; returns (n, 3, 32, 32) uint8.
    made: how the images were made, for the source.
    first: the largest number of images of each split, None for all.
    """
    train, test = rounds(labels["train"]), rounds(labels["test"])
    kept = len(train) * 9 // 10
    orders = [("train", train[:kept]), ("train", train[kept:]), ("test", test)]
    splits = []
    for (split, order), n in zip(orders, first or (None, None, None), strict=True):
        images = torch.from_numpy(pixels(split, order[:n])).float().div_(255)
        splits.append(Split(images, torch.from_numpy(labels[split][order[:n]]).long()))
    source = describe(f"CIFAR-10, {made}", [len(order) for _, order in orders], [len(split) for split in splits])
    return Dataset("cifar10", source, splits[0], splits[1], splits[2], CLASSES)


def quality_75(content: bytes, name: str) -> bool:
    """Whether an image file is a JPEG with the standard quantization tables of quality 75.

    content: of the file.
    name: of the file, for messages.

    Raises ValueError for a damaged file.
    """
    from PIL import Image

    image_folder.opened(content, name, None)  # raises ValueError if it is damaged
    standard = BytesIO()
    Image.new("RGB", (8, 8)).save(standard, format="JPEG", quality=75)
    tables = [getattr(Image.open(BytesIO(c)), "quantization", None) for c in (content, standard.getvalue())]
    return tables[0] == tables[1]
