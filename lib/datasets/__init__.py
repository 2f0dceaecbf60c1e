"""A name -> train, validation and test tensors, and where they came from."""

import hashlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MONKS = ("monks-1", "monks-2", "monks-3")
MONKS_BY_RULE = tuple(f"{name}-rule" for name in MONKS)
NAMES = ("digits", "street-digits", "mnist", "cifar10", *MONKS, *MONKS_BY_RULE)

# SHA-256 of MNIST's four files: a damaged file is an error, not a slightly different data set.
MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_PER_CLASS = {"train": 5_000, "test": 1_000}  # another number is a copy that is not whole

MONKS_VALUES = (3, 3, 2, 3, 4, 2)  # attribute a1 has the values 1, 2, 3; ...
MONKS_TRAIN = {"monks-1": 124, "monks-2": 169, "monks-3": 122}  # rows, of which ...
MONKS_NOISE = {"monks-1": 0, "monks-2": 0, "monks-3": 6}  # ... so many bear the wrong label


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width), float32 in [0, 1], and their class numbers (n,), int64.

    Of a table (MONK's problems) ``images`` are its rows, (n, inputs).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int) -> "Split":
        """The first n samples (all of them where there are fewer)."""
        return Split(self.images[:n], self.labels[:n])


@dataclass(frozen=True)
class Dataset:
    """Three splits that share no sample. Choices are made on ``validation``; ``test`` is only reported.

    MONK's problems are published otherwise: no validation (that split is empty), and a test set of all possible rows.
    """

    name: str
    source: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]


def load(name: str, *, size: int | None = None, first: Sequence[int] | None = None) -> Dataset:
    """The data set called ``name``.

    name: one of ``NAMES``, or the path of an ImageFolder tree (or a zip of one): ``<root>/<class>/<image>``, or the
        same below ``train``, ``test`` and, if there is one, ``validation``. Embedded, so always there:

        - "digits": scikit-learn's, resized to 28 x 28; "street-digits": the same on crops of two photographs, in colour
        - "monks-1-rule", "monks-2-rule", "monks-3-rule": drawn from the rules of MONK's problems

        and from files: "mnist", "cifar10" (JPEG or published), "monks-1", "monks-2", "monks-3".
    size: height and width in pixels to which a tree's images are resized; by default they must all be of one size.
    first: at most so many (training, validation, test) images: a fixed random part, the same in every run, of which a
        smaller one holds no other images; ``source`` says so. MONK's problems are not cut.

    Looks in ``$SURVEY_DATA``, then in ``data/``, then downloads through torchvision. Never a substitute: raises
    FileNotFoundError where a set is not to be had, ValueError where it is damaged.
    """
    if first is not None:
        first = tuple(first)
        if len(first) != 3 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in first):
            raise ValueError(
                f"first is {first}: accepted are three whole numbers from 1 up, training, validation, test"
            )
    if name in MONKS or name in MONKS_BY_RULE:
        if first is not None:
            raise ValueError(f"first is {first}, but {name} is used whole: leave first away")
        return _monks(name) if name in MONKS else _monks_by_rule(name)
    if name == "cifar10":
        return _cifar10(first)
    whole = {"digits": _digits, "street-digits": _street_digits, "mnist": _mnist}
    if name in whole:
        return _cut(whole[name](), first)
    path = next((p for p in [Path(name), *(root / name for root in _roots())] if name and p.exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"no data set is called {name!r}: accepted are {', '.join(NAMES)} and the path of an image folder or zip"
        )
    return _image_folder(path, size, first)


def _roots() -> list[Path]:
    named = os.environ.get("SURVEY_DATA")
    return [*([Path(named)] if named else []), Path("data"), Path(__file__).parents[2] / "data"]


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 16
    images = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(bunch.target).long()
    train, validation, test = _shuffled(images, labels, shares=(0.6, 0.15))
    return Dataset("digits", "scikit-learn's digits, 8 x 8 resized to 28 x 28", train, validation, test, _numbers(10))


def _street_digits() -> Dataset:
    """The digits of ``_digits``, split as they are, each on its own crop of the photographs' columns for that split."""
    from sklearn.datasets import load_digits, load_sample_images

    bunch, photographs = load_digits(), load_sample_images().images
    parts = _shuffled(torch.from_numpy(bunch.images).float() / 16, torch.from_numpy(bunch.target), shares=(0.6, 0.15))
    splits, random = [], np.random.RandomState(0)
    for part, (left, right) in zip(parts, ((0.0, 0.6), (0.6, 0.75), (0.75, 1.0)), strict=True):
        views = [photo[:, round(left * photo.shape[1]) : round(right * photo.shape[1])] for photo in photographs]
        images, _ = _composed(part.images, views, random)
        splits.append(Split(images, part.labels.long()))
    return Dataset(
        "street-digits", "scikit-learn's digits composed on its two sample photographs", *splits, _numbers(10)
    )


def _composed(digits: Tensor, views: list[np.ndarray], random: np.random.RandomState) -> tuple[Tensor, Tensor]:
    """Each digit (8, 8) at a random place of a random crop: images (n, 3, 32, 32) in [0, 1], and where the digit's
    pixels are, (n, 32, 32) bool.

    The crop is darkened, the digit 26 to 28 pixels high and of a random colour, brighter than the crop's mean by 0.45:
    a small network learns to read it within some fifty steps.
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
        while brightness @ (colour := random.random_sample(3)) < needed:
            pass
        images.append(crop * (1 - ink) + colour[:, None, None] * ink)
        masks.append(ink >= 0.5)
    return torch.from_numpy(np.stack(images)).float(), torch.from_numpy(np.stack(masks))


def _mnist() -> Dataset:
    from lib.vision import torchvision

    tried = []
    for root in _roots():
        raw = root / "MNIST" / "raw"
        tried.append(str(raw))
        if all((raw / file).is_file() for file in MNIST):
            break
    else:
        root = Path(__file__).parents[2] / "data"
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


def _cifar10(first: tuple[int, ...] | None) -> Dataset:
    """The first files found: an ImageFolder zip or tree, then torchvision's. Each split goes round the ten classes."""
    tried = []
    for root in _roots():
        for path in (root / "cifar10.zip", root / "cifar10", root / "cifar-10-batches-py"):
            tried.append(str(path))
            if path.exists():
                return _cifar10_published(root, first) if "batches" in path.name else _cifar10_images(path, first)
    from lib.vision import torchvision

    root = Path(__file__).parents[2] / "data"
    try:
        torchvision.datasets.CIFAR10(root, download=True)
    except Exception as error:
        raise FileNotFoundError(
            f"the data set 'cifar10' is not at {', '.join(dict.fromkeys(tried))} and no download came ({error}):"
            " put one of these into the folder that SURVEY_DATA names"
        ) from error
    return _cifar10_published(root, first)


def _cifar10_images(path: Path, first: tuple[int, ...] | None) -> Dataset:
    files = _listed(path)
    for split in sorted({*CIFAR10_PER_CLASS, *files.members}):
        found = np.bincount(files.members.get(split, ([], []))[1], minlength=len(files.classes)).tolist()
        if files.classes != CIFAR10 or found != [CIFAR10_PER_CLASS.get(split, 0)] * len(CIFAR10):
            holds = ", ".join(f"{n:,} {label}" for n, label in zip(found[:12], files.classes, strict=False))
            accepted = " and ".join(f"{n:,} {split} images" for split, n in CIFAR10_PER_CLASS.items())
            raise ValueError(
                f"{path} is not the whole of CIFAR-10: its {split} images are {holds or 'none'};"
                f" accepted are {accepted} of each of {', '.join(CIFAR10)}"
            )

    def pixels(split: str, chosen: np.ndarray) -> np.ndarray:
        found = _pixels(path, files.read, [files.members[split][0][i] for i in chosen], None, False)
        if found.shape[2:] != (32, 32):
            raise ValueError(f"{path} is not CIFAR-10: its images are {found.shape[2]} x {found.shape[3]}, not 32 x 32")
        return found

    one = files.members["train"][0][0]
    made = "JPEG at quality 75" if _quality_75(files.read(one), one) else f"the images of {path.name}"
    return _cifar10_splits({s: np.array(labels) for s, (_, labels) in files.members.items()}, pixels, made, first)


def _cifar10_published(root: Path, first: tuple[int, ...] | None) -> Dataset:
    from lib.vision import torchvision

    try:
        parts = {s: torchvision.datasets.CIFAR10(root, train=s == "train") for s in ("train", "test")}  # compares MD5
    except Exception as error:
        raise ValueError(f"{root / 'cifar-10-batches-py'} is damaged or not whole: {error}") from error

    def pixels(split: str, chosen: np.ndarray) -> np.ndarray:
        return parts[split].data[chosen].transpose(0, 3, 1, 2)

    return _cifar10_splits(
        {s: np.array(part.targets) for s, part in parts.items()}, pixels, "the published files", first
    )


def _cifar10_splits(
    labels: dict[str, np.ndarray],
    pixels: Callable[[str, np.ndarray], np.ndarray],
    made: str,
    first: tuple[int, ...] | None,
) -> Dataset:
    """45,000 / 5,000 / 10,000 images; only those that are asked for are decoded, and one split at a time."""
    train, test = _rounds(labels["train"]), _rounds(labels["test"])
    kept = len(train) * 9 // 10
    orders = [("train", train[:kept]), ("train", train[kept:]), ("test", test)]
    splits = []
    for (split, order), n in zip(orders, first or (None, None, None), strict=True):
        images = torch.from_numpy(pixels(split, order[:n])).float().div_(255)
        splits.append(Split(images, torch.from_numpy(labels[split][order[:n]]).long()))
    source = _source(f"CIFAR-10, {made}", [len(order) for _, order in orders], [len(split) for split in splits])
    return Dataset("cifar10", source, *splits, CIFAR10)


def _rounds(labels: np.ndarray) -> np.ndarray:
    """A fixed order in rounds of one sample of each class: its first n are as balanced as n samples can be."""
    random = np.random.RandomState(0)
    rounds = np.stack([random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)], axis=1)
    return np.take_along_axis(rounds, random.random_sample(rounds.shape).argsort(axis=1), axis=1).ravel()


def _quality_75(content: bytes, name: str) -> bool:
    """Whether an image file is a JPEG with the standard quantization tables at quality 75."""
    from PIL import Image

    _open(content, name, None)  # refuses a damaged one
    standard = BytesIO()
    Image.new("RGB", (8, 8)).save(standard, format="JPEG", quality=75)
    tables = [getattr(Image.open(BytesIO(c)), "quantization", None) for c in (content, standard.getvalue())]
    return tables[0] == tables[1]


def _monks(name: str) -> Dataset:
    """``monks/<name>_train.csv`` and ``_test.csv``, columns class, a1 to a6, id (the row's place in the full grid)."""
    tried = [root / "monks" for root in _roots()]
    for folder in tried:
        files = {split: folder / f"{name}_{split}.csv" for split in ("train", "test")}
        if all(file.is_file() for file in files.values()):
            break
    else:
        raise FileNotFoundError(
            f"the data set {name!r} is not in {', '.join(dict.fromkeys(map(str, tried)))}: put {name}_train.csv and"
            f" {name}_test.csv (columns class,a1,a2,a3,a4,a5,a6,id) into monks below the folder that SURVEY_DATA names"
        )
    splits = []
    for split, rows, wrong in (("train", MONKS_TRAIN[name], MONKS_NOISE[name]), ("test", 432, 0)):
        places, labels = _monks_rows(files[split])
        different, against = len(set(places.tolist())), int((labels != _monks_rule(name)[places]).sum())
        if (len(places), different, against) != (rows, rows, wrong):
            raise ValueError(
                f"{files[split]} is damaged: it holds {len(places)} rows, {different} of them different"
                f" and {against} against the rule; accepted are {rows} different rows, {wrong} against it"
            )
        splits.append(_monks_split(places, labels))
    return _monks_set(name, f"MONK's problem {name[6]}, the published samples", *splits)


def _monks_rows(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The rows' places in the grid (from 0) and their labels; each row must agree with its own ``id``."""
    header, *lines = file.read_text("utf-8", errors="replace").split() or [""]
    if header != "class,a1,a2,a3,a4,a5,a6,id":
        raise ValueError(f"{file} is damaged: its first line is {header!r}, accepted is 'class,a1,a2,a3,a4,a5,a6,id'")
    grid = np.indices(MONKS_VALUES).reshape(6, -1).T + 1
    rows = {",".join(map(str, [*row, i + 1])): i for i, row in enumerate(grid.tolist())}
    for number, line in enumerate(lines, start=2):
        if line[:2] not in ("0,", "1,") or line[2:] not in rows:
            raise ValueError(
                f"{file} is damaged: line {number} is {line!r}; accepted are a class of 0 or 1, the values of a1 to a6"
                f" (from 1 to {', '.join(map(str, MONKS_VALUES))}) and the place of these in the full grid"
            )
    return np.array([rows[line[2:]] for line in lines], dtype=int), np.array([int(line[0]) for line in lines])


def _monks_by_rule(name: str) -> Dataset:
    """As many training rows as published, and as many wrong labels, but drawn here: never the published sample."""
    problem = name.removesuffix("-rule")
    labels, random = _monks_rule(problem), np.random.RandomState(0)
    drawn = random.permutation(432)[: MONKS_TRAIN[problem]]
    wrong = np.arange(len(drawn)) < MONKS_NOISE[problem]
    train = _monks_split(drawn, np.where(wrong, 1 - labels[drawn], labels[drawn]))
    source = f"drawn from the rule of MONK's problem {problem[6]}; not the published sample"
    return _monks_set(name, source, train, _monks_split(np.arange(432), labels))


def _monks_rule(problem: str) -> np.ndarray:
    """The right labels of the 432 rows of the grid."""
    a1, a2, _, a4, a5, _ = grid = np.indices(MONKS_VALUES).reshape(6, -1) + 1
    return {
        "monks-1": (a1 == a2) | (a5 == 1),
        "monks-2": (grid == 1).sum(axis=0) == 2,
        "monks-3": ((a5 == 3) & (a4 == 1)) | ((a5 != 4) & (a2 != 3)),
    }[problem].astype(int)


def _monks_split(places: np.ndarray, labels: np.ndarray) -> Split:
    """The usual coding: one input for each value of each attribute, 3 + 3 + 2 + 3 + 4 + 2 = 17 inputs of 0 or 1."""
    values = np.stack(np.unravel_index(places, MONKS_VALUES), axis=1)
    coded = [np.eye(n, dtype=np.float32)[values[:, j]] for j, n in enumerate(MONKS_VALUES)]
    return Split(torch.from_numpy(np.concatenate(coded, axis=1)), torch.from_numpy(labels).long())


def _monks_set(name: str, source: str, train: Split, test: Split) -> Dataset:
    return Dataset(name, source, train, train.first(0), test, _numbers(2))


@dataclass(frozen=True)
class _Files:
    """What an image folder holds, before a file of it is opened."""

    classes: tuple[str, ...]
    members: dict[str, tuple[list[str], list[int]]]  # split, or "all" -> file names and class numbers
    read: Callable[[str], bytes]


def _image_folder(path: Path, size: int | None, first: tuple[int, ...] | None) -> Dataset:
    """An ImageFolder tree or a zip of one; nothing is unpacked to disk, and no file opened that is not asked for."""
    files = _listed(path)
    if "all" in files.members:
        orders = [("all", order) for order in _permuted(len(files.members["all"][0]), shares=(0.8, 0.1))]
    else:
        orders = [(split, np.arange(len(names))) for split, (names, _) in files.members.items()]
        orders.sort(key=lambda one: ("train", "test").index(one[0]) * 2 if one[0] in ("train", "test") else 1)
        if len(orders) == 2:
            train, validation, _ = _permuted(len(orders[0][1]), shares=(0.9, 0.1))
            orders[:1] = [("train", train), ("train", validation)]
    whole = [len(order) for _, order in orders]
    for i, n in enumerate(first or ()):
        if n < whole[i]:
            split, order = orders[i]
            orders[i] = split, order[np.random.RandomState(0).permutation(whole[i])[:n]]
    names, labels = next(iter(files.members.values()))
    grey = _open(files.read(names[0]), names[0], size).mode == "L"
    splits = []
    for split, order in orders:
        names, labels = files.members[split]
        pixels = _pixels(path, files.read, [names[i] for i in order], size, grey)
        splits.append(Split(torch.from_numpy(pixels).float().div_(255), torch.tensor(labels)[order]))
    source = _source(f"image folder {path.name}", whole, [len(split) for split in splits])
    return Dataset(path.stem, source, *splits, files.classes)


def _listed(path: Path) -> _Files:
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
    classes = {name: i for i, name in enumerate(sorted({p[1] if named else p[0] for p in parts}))}
    members: dict[str, tuple[list[str], list[int]]] = {}
    for name, part in zip(names, parts, strict=True):
        of_split = members.setdefault(part[0] if named else "all", ([], []))
        of_split[0].append(name)
        of_split[1].append(classes[part[1] if named else part[0]])
    return _Files(tuple(classes), members, read)


def _pixels(
    path: Path, read: Callable[[str], bytes], names: list[str], size: int | None, grey: bool, sheet: int = 100
) -> np.ndarray:
    """The images, (n, channels, height, width), 8 bits a value. They are pasted into sheets: an array each is slow."""
    from PIL import Image

    channels, known, out = 1 if grey else 3, {}, None
    for start in range(0, len(names), sheet):
        part = names[start : start + sheet]
        for i, name in enumerate(part):
            image = _open(read(name), name, size, grey, known)
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


def _tree_files(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    return names, lambda name: (path / name).read_bytes()


def _zip_files(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
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


def _hidden(name: str) -> bool:
    """What file managers leave beside the images: ``__MACOSX/``, ``.DS_Store``, ``._image.png``."""
    return re.search(r"(?:^|/)(?:\.|__MACOSX(?:/|$))", name) is not None


def _open(content: bytes, name: str, size: int | None, grey: bool | None = None, known: dict | None = None):
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


def _shuffled(images: Tensor, labels: Tensor, *, shares: tuple[float, float]) -> tuple[Split, Split, Split]:
    """One fixed permutation, cut into train, validation and the rest; every seed sees the same splits."""
    parts = _permuted(len(labels), shares=shares)
    return tuple(Split(images[part], labels[part]) for part in parts)  # type: ignore[return-value]


def _permuted(n: int, *, shares: tuple[float, float]) -> list[np.ndarray]:
    cuts = [round(shares[0] * n), round((shares[0] + shares[1]) * n)]
    return np.split(np.random.RandomState(0).permutation(n), cuts)


def _cut(found: Dataset, first: tuple[int, ...] | None) -> Dataset:
    """The first images of a set whose splits are in no order."""
    whole = (found.train, found.validation, found.test)
    parts = [split.first(n) for split, n in zip(whole, first or map(len, whole), strict=True)]
    source = _source(found.source, [len(split) for split in whole], [len(part) for part in parts])
    return replace(found, source=source, train=parts[0], validation=parts[1], test=parts[2])


def _source(source: str, whole: list[int], parts: list[int]) -> str:
    if whole == parts:
        return source
    train, validation, test = whole
    return f"{source}; a fixed part of its {train:,} training, {validation:,} validation and {test:,} test images"


def _numbers(n: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(n))
