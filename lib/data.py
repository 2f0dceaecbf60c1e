"""A name -> train, validation and test tensors, and where they came from."""

import hashlib
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
NAMES = ("digits", "mnist")

# SHA-256 of MNIST's four files: a damaged file is an error, not a slightly different data set.
MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width), float32 in [0, 1], and their class numbers (n,), int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int) -> "Split":
        """The first n samples (all of them where there are fewer)."""
        return Split(self.images[:n], self.labels[:n])


@dataclass(frozen=True)
class Dataset:
    """Three splits that share no sample. Choices are made on ``validation``; ``test`` is only reported."""

    name: str
    source: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]


def load(name: str, *, size: int | None = None) -> Dataset:
    """The data set called ``name``.

    name: "digits" (scikit-learn's, embedded, resized to 28 x 28), "mnist", or the path of an ImageFolder tree (or a
    zip of one): ``<root>/<class>/<image>``, or the same below ``train``, ``test`` and, if there is one, ``validation``.
    size: height and width in pixels to which a tree's images are resized; by default they must all be of one size.

    Looks in ``$SURVEY_DATA``, then in ``data/``, then downloads through torchvision. Never a substitute: raises
    FileNotFoundError where a set is not to be had, ValueError where it is damaged.
    """
    if name == "digits":
        return _digits()
    if name == "mnist":
        return _mnist()
    path = next((p for p in [Path(name), *(root / name for root in _roots())] if name and p.exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"no data set is called {name!r}: accepted are {', '.join(NAMES)} and the path of an image folder or zip"
        )
    return _image_folder(path, size)


def _roots() -> list[Path]:
    named = os.environ.get("SURVEY_DATA")
    return [*([Path(named)] if named else []), Path("data"), Path(__file__).parents[1] / "data"]


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 16
    images = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(bunch.target).long()
    train, validation, test = _shuffled(images, labels, shares=(0.6, 0.15))
    return Dataset("digits", "scikit-learn's digits, 8 x 8 resized to 28 x 28", train, validation, test, _numbers(10))


def _mnist() -> Dataset:
    from lib.vision import torchvision

    tried = []
    for root in _roots():
        raw = root / "MNIST" / "raw"
        tried.append(str(raw))
        if all((raw / file).is_file() for file in MNIST):
            break
    else:
        root = Path(__file__).parents[1] / "data"
        try:
            torchvision.datasets.MNIST(root, download=True)
        except Exception as error:
            raise FileNotFoundError(
                f"the data set 'mnist' is not in {', '.join(dict.fromkeys(tried))} and no download came ({error}):"
                " put its four idx files into MNIST/raw below the folder that SURVEY_DATA names"
            ) from error
        raw = root / "MNIST" / "raw"
    for file, expected in MNIST.items():
        found = hashlib.sha256((raw / file).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f"{raw / file} is damaged: its SHA-256 is {found[:12]}…, MNIST's is {expected[:12]}…")
    parts = []
    for train in (True, False):
        part = torchvision.datasets.MNIST(root, train=train)
        parts.append(Split(part.data[:, None].float() / 255, part.targets.long()))
    train, test = parts
    validation = Split(train.images[55_000:], train.labels[55_000:])
    return Dataset("mnist", "MNIST, the published files", train.first(55_000), validation, test, _numbers(10))


def _image_folder(path: Path, size: int | None) -> Dataset:
    """An ImageFolder tree or a zip of one; nothing is unpacked to disk."""
    names, read = _zip_files(path) if path.is_file() else _tree_files(path)
    names = sorted(name for name in names if name.lower().endswith(IMAGES) and not _hidden(name))
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
    classes = tuple(sorted({p[1] if named else p[0] for p in parts}))
    groups: dict[str, list[int]] = {}
    for i, part in enumerate(parts):
        groups.setdefault(part[0] if named else "all", []).append(i)
    grey = _open(read(names[0]), names[0], size).shape[0] == 1
    loaded = {}
    for group, members in groups.items():
        images = [_open(read(names[i]), names[i], size, grey) for i in members]
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"the images of {path} differ in size: give size= to bring them to one")
        labels = [classes.index(parts[i][1] if named else parts[i][0]) for i in members]
        loaded[group] = (torch.from_numpy(np.stack(images)).float() / 255, torch.tensor(labels))
    if not named:
        train, validation, test = _shuffled(*loaded["all"], shares=(0.8, 0.1))
    else:
        test = Split(*loaded.pop("test"))
        train = Split(*loaded.pop("train"))
        if loaded:
            validation = Split(*loaded.popitem()[1])
        else:
            train, validation, _ = _shuffled(train.images, train.labels, shares=(0.9, 0.1))
    return Dataset(path.stem, f"image folder {path.name}", train, validation, test, classes)


def _tree_files(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    return names, lambda name: (path / name).read_bytes()


def _zip_files(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:  # the second: a flipped version or method
        raise ValueError(f"{path} is damaged or no zip: accepted are an image folder and a zip of one") from error

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except Exception as error:  # zipfile and zlib raise many kinds
            raise ValueError(f"{name} in {path} is damaged or locked: {error}") from error

    return archive.namelist(), read


def _hidden(name: str) -> bool:
    """What file managers leave beside the images: ``__MACOSX/``, ``.DS_Store``, ``._image.png``."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _open(content: bytes, name: str, size: int | None, grey: bool | None = None) -> np.ndarray:
    from PIL import Image

    try:
        image = Image.open(BytesIO(content))
        image.load()
    except Exception as error:
        raise ValueError(f"the image {name} is damaged: {error}") from error
    if image.mode.startswith(("I", "F")):  # Pillow would clip them to 8 bits
        raise ValueError(
            f"the image {name} has more than 8 bits a channel (mode {image.mode}): accepted are 8-bit images"
        )
    if grey is None:
        grey = image.mode in ("1", "L")
    image = image.convert("L" if grey else "RGB")
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _shuffled(images: Tensor, labels: Tensor, *, shares: tuple[float, float]) -> tuple[Split, Split, Split]:
    """One fixed permutation, cut into train, validation and the rest; every seed sees the same splits."""
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    cuts = [round(shares[0] * len(labels)), round((shares[0] + shares[1]) * len(labels))]
    return tuple(Split(images[part], labels[part]) for part in np.split(order, cuts))  # type: ignore[return-value]


def _numbers(n: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(n))
