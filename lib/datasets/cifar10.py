"""CIFAR-10, from an ImageFolder zip or tree, or from the published files."""

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
PER_CLASS = {"train": 5_000, "test": 1_000}  # another number is a copy that is not whole


def load(first: tuple[int, ...] | None) -> Dataset:
    """An ImageFolder zip or tree, or the published files. Each split goes round the ten classes.

    first: at most so many images of each split; no others are decoded.

    Raises FileNotFoundError where the set is not to be had, ValueError where it is damaged or not whole.
    """
    (path,) = places.obtain("cifar10", download)
    return published(path, first) if path.name == "cifar-10-batches-py" else from_images(path, first)


def from_images(path: Path, first: tuple[int, ...] | None) -> Dataset:
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
    """The published files, from the address that torchvision knows."""
    from lib.vision import torchvision

    published = torchvision.datasets.CIFAR10
    packed = places.fetch(published.url, home / published.filename, f"md5:{published.tgz_md5}")
    with tempfile.TemporaryDirectory(dir=home) as folder:
        with tarfile.open(packed) as archive:
            archive.extractall(folder, filter="data")
        (Path(folder) / published.base_folder).rename(home / published.base_folder)
    packed.unlink()


def published(path: Path, first: tuple[int, ...] | None) -> Dataset:
    from lib.vision import torchvision

    try:
        parts = {
            s: torchvision.datasets.CIFAR10(path.parent, train=s == "train") for s in ("train", "test")
        }  # compares MD5
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
    """45,000 / 5,000 / 10,000 images; only those that are asked for are decoded, and one split at a time."""
    train, test = rounds(labels["train"]), rounds(labels["test"])
    kept = len(train) * 9 // 10
    orders = [("train", train[:kept]), ("train", train[kept:]), ("test", test)]
    splits = []
    for (split, order), n in zip(orders, first or (None, None, None), strict=True):
        images = torch.from_numpy(pixels(split, order[:n])).float().div_(255)
        splits.append(Split(images, torch.from_numpy(labels[split][order[:n]]).long()))
    source = describe(f"CIFAR-10, {made}", [len(order) for _, order in orders], [len(split) for split in splits])
    return Dataset("cifar10", source, *splits, CLASSES)


def quality_75(content: bytes, name: str) -> bool:
    """Whether an image file is a JPEG with the standard quantization tables at quality 75."""
    from PIL import Image

    image_folder.opened(content, name, None)  # refuses a damaged one
    standard = BytesIO()
    Image.new("RGB", (8, 8)).save(standard, format="JPEG", quality=75)
    tables = [getattr(Image.open(BytesIO(c)), "quantization", None) for c in (content, standard.getvalue())]
    return tables[0] == tables[1]
