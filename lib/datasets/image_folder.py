"""Image folders: one folder for each class, as a tree or a zip, with or without a folder for each split."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lib.datasets import Dataset, Split, archives
from lib.datasets.splits import describe, permuted

IMAGES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = {  # the usual names of a split's folder, in any case
    "train": ("train", "training", "trn"),
    "validation": ("validation", "validate", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
if TYPE_CHECKING:
    from PIL import Image

GRAY = ("1", "L", "LA", "La")  # Pillow's modes without color


@dataclass(frozen=True)
class Files:
    """What an image folder holds, before any of its files is decoded."""

    classes: tuple[str, ...]
    members: dict[str, tuple[list[str], list[int]]]  # split, or "all" -> file names and class numbers
    extra: tuple[str, ...]  # folders other than those of the splits; their images are left out
    archive: archives.Archive


def load(path: Path, size: int | None, first: tuple[int, ...] | None) -> Dataset:
    """Load an image folder or a zip of one: ``<class>/<image>``, or the same below a folder for each split.

    Without folders for splits, a tenth of the images becomes the validation split and a tenth the test split. If only
    one of these two has a folder, the other is a tenth of the training images; ``source`` says so.

    path: of the folder or zip.
    size: height and width in pixels to which the images are resized; None: all must have the same size.
    first: the largest number of images of each split, None for all; no others are decoded.

    Images have one channel if all images of the folder are gray and three otherwise, whichever of them are loaded.

    Raises ValueError, which names the file or folder, for a folder of any other form and for damaged images.
    """
    files = listed(path)
    notes = [f"left out: {', '.join(files.extra)}"] if files.extra else []
    if "all" in files.members:
        orders = [("all", order) for order in permuted(len(files.members["all"][0]), shares=(0.8, 0.1))]
    else:
        parts = {split: (split, np.arange(len(names))) for split, (names, _) in files.members.items()}
        for missing in SPLITS.keys() - parts.keys():
            kept, cut, _ = permuted(len(parts["train"][1]), shares=(0.9, 0.1))
            parts |= {"train": ("train", kept), missing: ("train", cut)}
            notes.append(f"its {missing} split is cut from the training images")
        orders = [parts[split] for split in SPLITS]
    whole = [len(order) for _, order in orders]
    for i, n in enumerate(first or ()):
        if n < whole[i]:
            split, order = orders[i]
            orders[i] = split, order[np.random.RandomState(0).permutation(whole[i])[:n]]
    gray = [mode in GRAY for names, _ in files.members.values() for mode in modes(files.archive, names) if mode]
    if any(gray) and not all(gray):
        notes.append(f"{sum(gray):,} of its {len(gray):,} images are gray, read as color")
    splits = []
    for split, order in orders:
        names, labels = files.members[split]
        images = pixels(path, files.archive.read, [names[i] for i in order], size, all(gray))
        splits.append(Split(torch.from_numpy(images).float().div_(255), torch.tensor(labels)[order]))
    source = describe("; ".join([f"image folder {path.name}", *notes]), whole, [len(split) for split in splits])
    return Dataset(path.stem, source, splits[0], splits[1], splits[2], files.classes)


def listed(path: Path) -> Files:
    """Return the classes and splits of an image folder, from the names of its files alone.

    path: of the folder or zip.

    Raises ValueError if classes or splits are not clear.
    """
    archive = archives.opened(path)
    names = [name for name in archive.names if name.lower().endswith(IMAGES)]
    if not names:
        raise ValueError(f"{path} holds no images: accepted are folders <class>/<image> with {', '.join(IMAGES)}")
    parts = {name: tuple(name.split("/")) for name in names}
    while len({p[0] for p in parts.values()}) == 1 and min(map(len, parts.values())) > 2:  # a zip often wraps them all
        parts = {name: p[1:] for name, p in parts.items()}
    folders = sorted({p[0] for p in parts.values()})
    of_folder = {f: split for f in folders for split, spellings in SPLITS.items() if f.lower() in spellings}
    named = "train" in of_folder.values() and len(set(of_folder.values())) > 1
    for split in SPLITS:
        if named and len(alike := [f for f, other in of_folder.items() if other == split]) > 1:
            raise ValueError(f"{path} holds several {split} folders, {' and '.join(alike)}: accepted is one")
    extra = tuple(f for f in folders if named and f not in of_folder)
    kept = {name: p for name, p in parts.items() if p[0] not in extra or len(p) == 1}
    if min(map(len, kept.values())) < (3 if named else 2):
        raise ValueError(f"{path} holds images outside class folders: accepted is <class>/<image>")
    if not named:
        _refuse_splits(path, folders, list(kept.values()))
    classes = sorted({p[1 if named else 0] for p in kept.values()})
    for one, other in zip(ordered := sorted(classes, key=str.lower), ordered[1:], strict=False):
        if one.lower() == other.lower():
            raise ValueError(f"{path} holds the classes {one} and {other}: accepted is one spelling of a class")
    members: dict[str, tuple[list[str], list[int]]] = {}
    for name, p in kept.items():
        of_split = members.setdefault(of_folder[p[0]] if named else "all", ([], []))
        of_split[0].append(name)
        of_split[1].append(classes.index(p[1 if named else 0]))
    return Files(tuple(classes), members, extra, archive)


def _refuse_splits(path: Path, folders: list[str], parts: list[tuple[str, ...]]) -> None:
    """Raise ValueError for folders that look like splits: used as classes, they would only teach train from test."""
    inner = {f: {p[1] for p in parts if p[0] == f and len(p) > 2} for f in folders}
    common = set.intersection(*inner.values())
    bears_name = [f for f in folders if len(inner[f]) > 1 and any(f.lower() in names for names in SPLITS.values())]
    if len(folders) > 1 and min(map(len, parts)) > 2 and (len(common) > 1 or bears_name):
        accepted = "; ".join(f"{split}: {', '.join(names)}" for split, names in SPLITS.items())
        raise ValueError(
            f"the folders {', '.join(folders[:12])} of {path} look like splits, since they hold the folders"
            f" {', '.join(sorted(common or inner[bears_name[0]])[:12])}: accepted is a training folder beside a"
            f" validation or a test folder ({accepted})"
        )


def modes(archive: archives.Archive, names: list[str]) -> list[str]:
    """Return Pillow's mode of each image, from its header; "" for a file without one, which will fail to decode.

    archive: of the image folder.
    names: of the images.
    """
    from PIL import Image

    found = []
    for name in names:
        try:
            with archive.open(name) as file, Image.open(file) as image:
                found.append(image.mode)
        except PermissionError:
            raise
        except Exception:  # Pillow and zipfile raise many kinds
            found.append("")
    return found


def pixels(
    path: Path, read: Callable[[str], bytes], names: list[str], size: int | None, gray: bool, sheet: int = 100
) -> np.ndarray:
    """Decode images: (n, channels, height, width), 8 bits per value.

    They are pasted into sheets, since making one array for each image is slow.

    path: of the image folder, for messages.
    read: name -> content.
    names: of the images.
    size: height and width in pixels to which they are resized; None: all must have the same size.
    gray: one channel, otherwise three.
    sheet: images per sheet, default 100.

    Raises ValueError for a damaged image and for images of different sizes.
    """
    from PIL import Image

    channels = 1 if gray else 3
    known: dict[bytes, tuple[str, tuple[int, int]]] = {}
    out = np.empty((0, channels, 1, 1), np.uint8)
    for start in range(0, len(names), sheet):
        part = names[start : start + sheet]
        for i, name in enumerate(part):
            image = opened(read(name), name, size, gray, known)
            if start == i == 0:
                width, height = image.size
                out = np.empty((len(names), channels, height, width), np.uint8)
            if image.size != (width, height):
                raise ValueError(f"the images of {path} differ in size: give size= to resize them")
            if i == 0:
                page = Image.new(image.mode, (width, height * len(part)))
            page.paste(image, (0, height * i))
        pasted = np.asarray(page).reshape(len(part), height, width, channels)
        out[start : start + sheet] = pasted.transpose(0, 3, 1, 2)
    return out


def opened(
    content: bytes,
    name: str,
    size: int | None,
    gray: bool | None = None,
    known: dict[bytes, tuple[str, tuple[int, int]]] | None = None,
) -> "Image.Image":
    """Decode one image to mode "L" or "RGB".

    content: of the file.
    name: of the file, for messages.
    size: height and width in pixels to which it is resized; None leaves them.
    gray: whether to return mode "L"; None (default) decides by the image.
    known: headers of the JPEG files opened so far. A file whose header is one of them, byte for byte, has its mode and
        size too, and goes straight to the decoder, which takes a third of the time.

    Raises ValueError for a damaged image and for more than 8 bits per channel.
    """
    from PIL import Image

    header = content[: content.rfind(b"\xff\xda")]  # up to the last start of a scan
    try:
        if known and header in known:
            mode, pixels = known[header]
            image = Image.frombytes(mode, pixels, content, "jpeg", mode, "")
        else:
            file = Image.open(BytesIO(content))
            file.load()
            image = file
            if known is not None and file.format == "JPEG" and image.mode in ("L", "RGB"):
                known[header] = image.mode, image.size
    except Exception as error:
        raise ValueError(f"the image {name} is damaged: {error}") from error
    if image.mode.startswith(("I", "F")):  # Pillow would clip them to 8 bits
        raise ValueError(
            f"the image {name} has more than 8 bits a channel (mode {image.mode}): accepted are 8-bit images"
        )
    if gray is None:
        gray = image.mode in ("1", "L")
    image = image if image.mode == ("L" if gray else "RGB") else image.convert("L" if gray else "RGB")
    return image if size is None else image.resize((size, size), Image.Resampling.BILINEAR)
