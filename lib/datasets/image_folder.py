"""Image folders: one folder for each class, as a tree or a zip."""

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from lib.datasets import Dataset, Split
from lib.datasets.splits import describe, permuted

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Files:
    """What an image folder holds, before a file of it is opened."""

    classes: tuple[str, ...]
    members: dict[str, tuple[list[str], list[int]]]  # split, or "all" -> file names and class numbers
    read: Callable[[str], bytes]


def load(path: Path, size: int | None, first: tuple[int, ...] | None) -> Dataset:
    """An ImageFolder tree or a zip of one; nothing is unpacked to disk, and no file opened that is not asked for."""
    files = listed(path)
    if "all" in files.members:
        orders = [("all", order) for order in permuted(len(files.members["all"][0]), shares=(0.8, 0.1))]
    else:
        orders = [(split, np.arange(len(names))) for split, (names, _) in files.members.items()]
        orders.sort(key=lambda one: ("train", "test").index(one[0]) * 2 if one[0] in ("train", "test") else 1)
        if len(orders) == 2:
            train, validation, _ = permuted(len(orders[0][1]), shares=(0.9, 0.1))
            orders[:1] = [("train", train), ("train", validation)]
    whole = [len(order) for _, order in orders]
    for i, n in enumerate(first or ()):
        if n < whole[i]:
            split, order = orders[i]
            orders[i] = split, order[np.random.RandomState(0).permutation(whole[i])[:n]]
    names, labels = next(iter(files.members.values()))
    grey = opened(files.read(names[0]), names[0], size).mode == "L"
    splits = []
    for split, order in orders:
        names, labels = files.members[split]
        images = pixels(path, files.read, [names[i] for i in order], size, grey)
        splits.append(Split(torch.from_numpy(images).float().div_(255), torch.tensor(labels)[order]))
    source = describe(f"image folder {path.name}", whole, [len(split) for split in splits])
    return Dataset(path.stem, source, *splits, files.classes)


def listed(path: Path) -> Files:
    names, read = zip_files(path) if path.is_file() else tree_files(path)
    names = sorted(name for name in names if name.lower().endswith(IMAGES) and not hidden(name))
    if not names:
        raise ValueError(f"{path} holds no images: accepted are folders <class>/<image> with {', '.join(IMAGES)}")
    parts = [tuple(name.split("/")) for name in names]
    while len({p[0] for p in parts}) == 1 and min(map(len, parts)) > 2:  # a zip often wraps all in one folder
        parts = [p[1:] for p in parts]
    splits = {p[0] for p in parts}
    named = {"train", "test"} <= splits <= {"train", "test", "validation", "val", "valid"}
    if min(map(len, parts)) < (3 if named else 2):
        raise ValueError(f"{path} holds images outside class folders: accepted is <class>/<image>")
    if named and len(splits) > 3:
        raise ValueError(f"{path} holds several validation folders: accepted is one beside train and test")
    classes = {name: i for i, name in enumerate(sorted({p[1] if named else p[0] for p in parts}))}
    members: dict[str, tuple[list[str], list[int]]] = {}
    for name, part in zip(names, parts, strict=True):
        of_split = members.setdefault(part[0] if named else "all", ([], []))
        of_split[0].append(name)
        of_split[1].append(classes[part[1] if named else part[0]])
    return Files(tuple(classes), members, read)


def pixels(
    path: Path, read: Callable[[str], bytes], names: list[str], size: int | None, grey: bool, sheet: int = 100
) -> np.ndarray:
    """The images, (n, channels, height, width), 8 bits a value. They are pasted into sheets: an array each is slow."""
    from PIL import Image

    channels, known, out = 1 if grey else 3, {}, None
    for start in range(0, len(names), sheet):
        part = names[start : start + sheet]
        for i, name in enumerate(part):
            image = opened(read(name), name, size, grey, known)
            if out is None:
                width, height = image.size
                out = np.empty((len(names), channels, height, width), np.uint8)
            if image.size != (width, height):
                raise ValueError(f"the images of {path} differ in size: give size= to bring them to one")
            if i == 0:
                page = Image.new(image.mode, (width, height * len(part)))
            page.paste(image, (0, height * i))
        pasted = np.asarray(page).reshape(len(part), height, width, channels)
        out[start : start + sheet] = pasted.transpose(0, 3, 1, 2)
    return np.empty((0, channels, 1, 1), np.uint8) if out is None else out


def tree_files(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    return names, lambda name: (path / name).read_bytes()


def zip_files(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:  # the second: a flipped version or method
        raise ValueError(f"{path} is damaged or no zip: accepted are an image folder and a zip of one") from error

    def read(name: str) -> bytes:
        entry = archive.getinfo(name)
        try:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:  # bit 0: locked
                return archive.read(name)
            # The bytes as they stand, after a header of 30 bytes, a name and more: five times as fast.
            archive.fp.seek(entry.header_offset + 26)
            archive.fp.seek(sum(struct.unpack("<HH", archive.fp.read(4))), os.SEEK_CUR)
            content = archive.fp.read(entry.file_size)
            if zlib.crc32(content) != entry.CRC:
                raise ValueError("its checksum is another")
            return content
        except Exception as error:  # zipfile and zlib raise many kinds
            raise ValueError(f"{name} in {path} is damaged or locked: {error}") from error

    return archive.namelist(), read


def hidden(name: str) -> bool:
    """What file managers leave beside the images: ``__MACOSX/``, ``.DS_Store``, ``._image.png``."""
    return re.search(r"(?:^|/)(?:\.|__MACOSX(?:/|$))", name) is not None


def opened(content: bytes, name: str, size: int | None, grey: bool | None = None, known: dict | None = None):
    """The image of a file, of mode "L" or "RGB".

    known: headers of JPEG files opened so far. A file with one of them, byte for byte, has its mode and size too: it is
    handed to the decoder at once, which takes a third of the time.
    """
    from PIL import Image

    header = content[: content.rfind(b"\xff\xda")]  # up to the last start of a scan
    try:
        if known and header in known:
            mode, pixels = known[header]
            image = Image.frombytes(mode, pixels, content, "jpeg", mode, "")
        else:
            image = Image.open(BytesIO(content))
            image.load()
            if known is not None and image.format == "JPEG" and image.mode in ("L", "RGB"):
                known[header] = image.mode, image.size
    except Exception as error:
        raise ValueError(f"the image {name} is damaged: {error}") from error
    if image.mode.startswith(("I", "F")):  # Pillow would clip them to 8 bits
        raise ValueError(
            f"the image {name} has more than 8 bits a channel (mode {image.mode}): accepted are 8-bit images"
        )
    if grey is None:
        grey = image.mode in ("1", "L")
    image = image if image.mode == ("L" if grey else "RGB") else image.convert("L" if grey else "RGB")
    return image if size is None else image.resize((size, size), Image.Resampling.BILINEAR)
