"""CIFAR-10, from an ImageFolder zip or tree, or from the published files."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from lib.datasets import Dataset, Split, image_folder, places
from lib.datasets.splits import describe

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PER_CLASS = {"train": 5_000, "test": 1_000}  # another number is a copy that is not whole


def cifar10(first: tuple[int, ...] | None) -> Dataset:
    """The first files found: an ImageFolder zip or tree, then torchvision's. Each split goes round the ten classes."""
    tried = []
    for root in places.roots():
        for path in (root / "cifar10.zip", root / "cifar10", root / "cifar-10-batches-py"):
            tried.append(str(path))
            if path.exists():
                return published(root, first) if "batches" in path.name else from_images(path, first)
    from lib.vision import torchvision

    root = Path(__file__).parents[2] / "data"
    try:
        torchvision.datasets.CIFAR10(root, download=True)
    except Exception as error:
        raise FileNotFoundError(
            f"the data set 'cifar10' is not at {', '.join(dict.fromkeys(tried))} and no download came ({error}):"
            " put one of these into the folder that SURVEY_DATA names"
        ) from error
    return published(root, first)


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
        found = image_folder.pixels(path, files.read, [files.members[split][0][i] for i in chosen], None, False)
        if found.shape[2:] != (32, 32):
            raise ValueError(f"{path} is not CIFAR-10: its images are {found.shape[2]} x {found.shape[3]}, not 32 x 32")
        return found

    one = files.members["train"][0][0]
    made = "JPEG at quality 75" if quality_75(files.read(one), one) else f"the images of {path.name}"
    return divided({s: np.array(labels) for s, (_, labels) in files.members.items()}, pixels, made, first)


def published(root: Path, first: tuple[int, ...] | None) -> Dataset:
    from lib.vision import torchvision

    try:
        parts = {s: torchvision.datasets.CIFAR10(root, train=s == "train") for s in ("train", "test")}  # compares MD5
    except Exception as error:
        raise ValueError(f"{root / 'cifar-10-batches-py'} is damaged or not whole: {error}") from error

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


def rounds(labels: np.ndarray) -> np.ndarray:
    """A fixed order in rounds of one sample of each class: its first n are as balanced as n samples can be."""
    random = np.random.RandomState(0)
    rounds = np.stack([random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)], axis=1)
    return np.take_along_axis(rounds, random.random_sample(rounds.shape).argsort(axis=1), axis=1).ravel()


def quality_75(content: bytes, name: str) -> bool:
    """Whether an image file is a JPEG with the standard quantization tables at quality 75."""
    from PIL import Image

    image_folder.opened(content, name, None)  # refuses a damaged one
    standard = BytesIO()
    Image.new("RGB", (8, 8)).save(standard, format="JPEG", quality=75)
    tables = [getattr(Image.open(BytesIO(c)), "quantization", None) for c in (content, standard.getvalue())]
    return tables[0] == tables[1]
