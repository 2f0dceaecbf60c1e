"""Data sets: the tensors, the splits, and a clear error for everything that is not to be had."""

import hashlib
import os
import pickle
import random
import zipfile
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from lib import datasets
from lib.vision import torchvision

ROOT = Path(os.environ.get("SURVEY_DATA", "nowhere"))
HELD = ROOT / "MNIST" / "raw"
needs_cifar10 = pytest.mark.skipif(not (ROOT / "cifar10.zip").is_file(), reason="SURVEY_DATA holds no CIFAR-10")
needs_monks = pytest.mark.skipif(not (ROOT / "monks").is_dir(), reason="SURVEY_DATA holds no MONK's problems")
needs_mnist = pytest.mark.skipif(
    not all((HELD / f).is_file() for f in datasets.MNIST), reason="SURVEY_DATA holds no MNIST"
)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty data root, an empty working folder, and no network."""

    def fails(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("SURVEY_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets, "MNIST", fails)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", fails)
    monkeypatch.setattr(datasets, "_roots", lambda: [tmp_path])
    return tmp_path


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, format="png")
    return out.getvalue()


def tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


TWENTY = {f"{'ant' if i % 2 else 'bee'}/{i:02}.png": picture(i) for i in range(20)}


def same(a: datasets.Dataset, b: datasets.Dataset) -> bool:
    parts = [(getattr(a, s), getattr(b, s)) for s in ("train", "validation", "test")]
    equal = all(torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) for x, y in parts)
    return equal and a.classes == b.classes


# -- digits and MNIST --------------------------------------------------------------------------------------------------


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


def test_splits_share_no_sample_and_are_the_same_each_time(tmp_path):
    again, found = datasets.load("digits"), datasets.load("digits")
    assert same(found, again)
    images = [{t.numpy().tobytes() for t in getattr(found, s).images} for s in ("train", "validation", "test")]
    assert not images[0] & images[1] and not images[0] & images[2] and not images[1] & images[2]


def test_splits_do_not_depend_on_the_seeds_of_the_run():
    torch.manual_seed(1)
    np.random.seed(1)
    first = datasets.load("digits")
    torch.manual_seed(2)
    np.random.seed(2)
    assert same(first, datasets.load("digits"))


def test_first_takes_what_there_is():
    split = datasets.load("digits").test
    assert len(split.first(5)) == 5 and len(split.first(10**6)) == len(split) and len(split.first(0)) == 0
    assert torch.equal(split.first(5).images, split.images[:5])


@needs_mnist
def test_mnist_is_the_published_set():
    mnist = datasets.load("mnist")
    assert [len(mnist.train), len(mnist.validation), len(mnist.test)] == [55_000, 5_000, 10_000]
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert mnist.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train.images.shape[1:] == (1, 28, 28) and mnist.train.images.dtype == torch.float32
    assert mnist.train.images.min() == 0 and mnist.train.images.max() == 1


@needs_mnist
def test_a_damaged_mnist_file_is_named(tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in datasets.MNIST:
        (raw / file).symlink_to(HELD / file)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    content = bytearray((HELD / "t10k-labels-idx1-ubyte").read_bytes())
    content[100] ^= 1
    (raw / "t10k-labels-idx1-ubyte").write_bytes(content)
    monkeypatch.setenv("SURVEY_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte is damaged: its SHA-256 is"):
        datasets.load("mnist")


def test_files_that_only_bear_mnists_names_are_damaged(nowhere):
    tree(nowhere, {f"MNIST/raw/{file}": b"\0\0\x08\x01\0\0\0\0" for file in datasets.MNIST})
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is damaged"):
        datasets.load("mnist")


def test_mnist_without_files_and_without_network_says_where_to_put_them(nowhere):
    with pytest.raises(FileNotFoundError, match=r"'mnist' is not in .*MNIST/raw and .*\(no network\)"):
        datasets.load("mnist")


@pytest.mark.parametrize("name", ["cifar", "", "MNIST ", "digits.zip", "../digits"])
def test_an_unknown_name_lists_the_accepted_ones(name, nowhere):
    with pytest.raises(
        FileNotFoundError,
        match=f"no data set is called '{name}': accepted are digits, street-digits, mnist, .* and the path",
    ):
        datasets.load(name)


# -- A part of a set ---------------------------------------------------------------------------------------------------


def lengths(found: datasets.Dataset) -> list[int]:
    return [len(found.train), len(found.validation), len(found.test)]


@pytest.mark.parametrize("name", ["digits", "street-digits"])
def test_a_part_is_the_first_of_each_split_and_says_so(name):
    whole, part = datasets.load(name), datasets.load(name, first=[100, 20, 10**6])
    assert lengths(part) == [100, 20, len(whole.test)]
    for split, n in (("train", 100), ("validation", 20), ("test", 10**6)):
        assert torch.equal(getattr(part, split).images, getattr(whole, split).images[:n])
        assert torch.equal(getattr(part, split).labels, getattr(whole, split).labels[:n])
    assert part.source == f"{whole.source}; a fixed part of its 1,078 training, 270 validation and 449 test images"
    assert datasets._cut(whole, (1078, 270, 10**6)).source == whole.source


@needs_mnist
def test_a_part_of_mnist():
    part = datasets.load("mnist", first=(50, 10, 20))
    assert lengths(part) == [50, 10, 20] and part.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert part.source.endswith("a fixed part of its 55,000 training, 5,000 validation and 10,000 test images")


@pytest.mark.parametrize("named", [False, True])
def test_a_part_of_a_folder_is_drawn_from_its_splits_and_opens_no_other_file(named, tmp_path):
    files = {f"{s}/{name}" if named else name: c for s in ("train", "test") for name, c in TWENTY.items()}
    whole = datasets.load(str(zipped(tmp_path / "whole.zip", files)))
    parts = [datasets.load(str(tmp_path / "whole.zip"), first=(n, 1, n)) for n in (2, 3)]
    assert [lengths(part) for part in parts] == ([[2, 1, 2], [3, 1, 3]] if named else [[2, 1, 2], [3, 1, 2]])
    for split in ("train", "validation", "test"):
        smaller, larger, all_of_them = (
            {image.numpy().tobytes() for image in getattr(found, split).images} for found in (*parts, whole)
        )
        assert smaller <= larger <= all_of_them
    if named:  # the files stand in the order of the classes: a part does not
        assert parts[1].test.images.tolist() != whole.test.images[:3].tolist()
    first, used = sorted(files)[0], pixels(parts[0])
    unused = {
        name: c
        for name, c in files.items()
        if name != first
        and (np.asarray(Image.open(BytesIO(c)), dtype=np.float32).transpose(2, 0, 1) / 255).tobytes() not in used
    }
    damaged = zipped(tmp_path / "damaged.zip", files | dict.fromkeys(unused, b"no image"))
    assert len(unused) > 8 and same(parts[0], datasets.load(str(damaged), first=(2, 1, 2)))


@pytest.mark.parametrize("first", [(), (1, 2), (1, 2, 3, 4), (0, 1, 1), (-1, 1, 1), (1.5, 1, 1), (True, 1, 1), "123"])
def test_a_part_of_another_form_is_refused(first):
    with pytest.raises(ValueError, match=r"first is \(.*\): accepted are three whole numbers from 1 up"):
        datasets.load("digits", first=first)


# -- Street digits -----------------------------------------------------------------------------------------------------


def test_street_digits_are_the_digits_in_colour():
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


def test_a_composed_digit_stands_on_the_darkened_photograph_and_is_brighter_than_it():
    digits, coloured = torch.zeros(40, 8, 8), np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    digits[:, 2:6, 2:6] = 1
    blank, _ = datasets._composed(torch.zeros(40, 8, 8), [coloured], np.random.RandomState(5))
    images, masks = datasets._composed(digits, [coloured], np.random.RandomState(5))
    windows = np.lib.stride_tricks.sliding_window_view(0.4 / 255 * coloured, (32, 32), axis=(0, 1))
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
        datasets,
        "_composed",
        lambda digits, views, random: (seen.append(views), (torch.zeros(len(digits), 3, 32, 32), 0))[1],
    )
    datasets.load("street-digits")
    for photograph in range(2):
        ends = [views[photograph].__array_interface__["data"][0] for views in seen]
        widths = [views[photograph].shape[1] for views in seen]
        assert sum(widths) == 640 and min(widths) >= 64
        assert [(b - a) // 3 for a, b in pairwise(ends)] == widths[:2]  # side by side


# -- CIFAR-10 ----------------------------------------------------------------------------------------------------------


def jpeg(seed: int, quality: int = 75, size: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size // 4, size // 4, 3), dtype=np.uint8).repeat(4, 0)
    out = BytesIO()
    Image.fromarray(pixels.repeat(4, 1)).save(out, format="JPEG", quality=quality)
    return out.getvalue()


CIFAR_FILES = {
    f"cifar10/{split}/{label}/{i:04}.jpg": jpeg(1000 * k + 100 * i + (split == "test"))
    for split, n in (("train", 10), ("test", 3))
    for k, label in enumerate(datasets.CIFAR10)
    for i in range(n)
}


@pytest.fixture
def small(nowhere, monkeypatch):
    """CIFAR-10 may have 10 and 3 images of each class."""
    monkeypatch.setattr(datasets, "CIFAR10_PER_CLASS", {"train": 10, "test": 3})
    return nowhere


def test_cifar10_as_a_zip_or_a_tree_holds_every_file_once(small):
    zipped(small / "cifar10.zip", CIFAR_FILES)
    found = datasets.load("cifar10")
    assert found.name == "cifar10" and found.classes == datasets.CIFAR10
    assert found.source == "CIFAR-10, JPEG at quality 75"
    by_pixels = {}
    for name, content in CIFAR_FILES.items():
        image = np.asarray(Image.open(BytesIO(content)), dtype=np.float32).transpose(2, 0, 1) / 255
        by_pixels[image.tobytes()] = name.split("/")[1:3]
    for split, n in (("train", 90), ("validation", 10), ("test", 30)):
        part = getattr(found, split)
        assert len(part) == n and part.images.shape[1:] == (3, 32, 32) and part.images.dtype == torch.float32
        assert part.labels.bincount().tolist() == [n // 10] * 10
        assert (part.labels.view(-1, 10).sort(dim=1).values == torch.arange(10)).all()  # round by round
        for image, label in zip(part.images, part.labels, strict=True):
            of, name = by_pixels.pop(image.numpy().tobytes())
            assert (of == "test") == (split == "test") and datasets.CIFAR10[label] == name
    assert not by_pixels
    (small / "cifar10.zip").unlink()
    tree(small, CIFAR_FILES)
    assert same(found, datasets.load("cifar10"))


def test_a_part_of_cifar10_is_the_first_of_the_whole_and_decodes_nothing_else(small, monkeypatch):
    zipped(small / "cifar10.zip", CIFAR_FILES)
    whole, opened = datasets.load("cifar10"), []
    monkeypatch.setattr(
        datasets,
        "_open",
        lambda content, *rest, original=datasets._open: (opened.append(1), original(content, *rest))[1],
    )
    part = datasets.load("cifar10", first=(20, 5, 7))
    assert len(opened) == 20 + 5 + 7 + 1  # one more to see how the files are made
    for split, n in (("train", 20), ("validation", 5), ("test", 7)):
        assert torch.equal(getattr(part, split).images, getattr(whole, split).images[:n])
    assert part.source == f"{whole.source}; a fixed part of its 90 training, 10 validation and 30 test images"


def test_other_qualities_and_formats_are_not_called_quality_75(small):
    zipped(small / "cifar10.zip", {name: jpeg(i, 90) for i, name in enumerate(CIFAR_FILES)})
    assert datasets.load("cifar10").source == "CIFAR-10, the images of cifar10.zip"
    zipped(small / "cifar10.zip", {name: picture(i, size=(32, 32)) for i, name in enumerate(CIFAR_FILES)})
    assert datasets.load("cifar10").source == "CIFAR-10, the images of cifar10.zip"


ONE = "cifar10/train/cat/0003.jpg"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {n: c for n, c in CIFAR_FILES.items() if n != ONE},
            "is not the whole of CIFAR-10: its train images are .* 9 cat",
        ),
        (
            CIFAR_FILES | {ONE.replace("0003", "x"): jpeg(1)},
            "is not the whole of CIFAR-10: its train images are .* 11 cat",
        ),
        (
            CIFAR_FILES | {ONE.replace("cat", "cow"): jpeg(1)},
            "accepted are 10 train images and 3 test images of each of",
        ),
        (CIFAR_FILES | {ONE.replace("train", "val"): jpeg(1)}, "its val images are .* 1 cat"),
        ({n.replace("/test/", "/other/"): c for n, c in CIFAR_FILES.items()}, "is not the whole of CIFAR-10"),
        (CIFAR_FILES | {ONE: jpeg(1)[:300]}, "cat/0003.jpg is damaged"),
        ({name: jpeg(i, size=16) for i, name in enumerate(CIFAR_FILES)}, "its images are 16 x 16, not 32 x 32"),
        (CIFAR_FILES | {ONE: jpeg(1, size=16)}, "differ in size"),
        ({"readme.txt": b"x"}, "holds no images"),
    ],
)
def test_what_is_not_the_whole_of_cifar10_is_refused(files, message, small):
    zipped(small / "cifar10.zip", files)
    with pytest.raises(ValueError, match=message):
        datasets.load("cifar10")


def test_a_flipped_byte_and_a_cut_of_cifar10s_zip_are_errors(small):
    content = zipped(small / "cifar10.zip", CIFAR_FILES).read_bytes()
    at = content.index(CIFAR_FILES[ONE]) + 620
    (small / "cifar10.zip").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(
        ValueError, match=r"cat/0003\.jpg in .*cifar10\.zip is damaged or locked: its checksum is another"
    ):
        datasets.load("cifar10")
    (small / "cifar10.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cifar10\.zip is damaged or no zip"):
        datasets.load("cifar10")


def published(root: Path, monkeypatch) -> np.ndarray:
    """torchvision's files with 100 and 20 images; their pixels (120, 32, 32, 3) are returned."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (120, 3, 32, 32), dtype=np.uint8)
    batches = {"train": pixels[:100], "test": pixels[100:]}
    contents = {"meta": {"label_names": list(datasets.CIFAR10)}} | {
        name: {"data": part.reshape(len(part), -1), "labels": [i % 10 for i in range(len(part))]}
        for name, part in batches.items()
    }
    md5 = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(kind, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(kind, "meta", {"filename": "meta", "key": "label_names", "md5": md5["meta"]})
    return pixels


def test_the_published_files_of_cifar10_are_read(nowhere, monkeypatch):
    pixels = published(nowhere, monkeypatch)
    found = datasets.load("cifar10")
    assert lengths(found) == [90, 10, 20] and found.source == "CIFAR-10, the published files"
    places = {(image / np.float32(255)).tobytes(): i for i, image in enumerate(pixels.astype(np.float32))}
    for split in ("train", "validation", "test"):
        for image, label in zip(getattr(found, split).images, getattr(found, split).labels, strict=True):
            place = places.pop(image.numpy().tobytes())
            assert place % 10 == label and (place >= 100) == (split == "test")
    assert not places
    assert torch.equal(datasets.load("cifar10", first=(8, 9, 7)).test.images, found.test.images[:7])
    zipped(nowhere / "cifar10.zip", {"readme.txt": b"x"})  # an image folder goes before them, good or bad
    with pytest.raises(ValueError, match="holds no images"):
        datasets.load("cifar10")


def test_a_damaged_published_file_is_not_read(nowhere, monkeypatch):
    published(nowhere, monkeypatch)
    content = bytearray((nowhere / "cifar-10-batches-py" / "test").read_bytes())
    content[500] ^= 1
    (nowhere / "cifar-10-batches-py" / "test").write_bytes(content)
    with pytest.raises(ValueError, match="cifar-10-batches-py is damaged or not whole"):
        datasets.load("cifar10")


def test_cifar10_without_files_and_without_network_says_where_to_put_them(nowhere):
    with pytest.raises(FileNotFoundError, match=r"'cifar10' is not at .*cifar10\.zip, .*-py and .*\(no network\)"):
        datasets.load("cifar10")


@needs_cifar10
def test_cifar10_has_its_usual_means(monkeypatch):
    found = datasets.load("cifar10", first=(2000, 10, 500))
    assert found.source.startswith("CIFAR-10, JPEG at quality 75; a fixed part of its 45,000 training, 5,000 valid")
    assert found.train.labels.bincount().tolist() == [200] * 10 and found.test.labels.bincount().tolist() == [50] * 10
    mean, spread = found.train.images.mean(dim=(0, 2, 3)), found.train.images.std(dim=(0, 2, 3))
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.015)
    assert torch.allclose(spread, torch.tensor([0.2470, 0.2435, 0.2616]), atol=0.015)


# -- MONK's problems ---------------------------------------------------------------------------------------------------


def rule(name: str, a: list[int]) -> int:
    """MONK's problems as Thrun et al. state them; ``a[0]`` is unused."""
    if name.startswith("monks-1"):
        return int(a[1] == a[2] or a[5] == 1)
    if name.startswith("monks-2"):
        return int(sum(value == 1 for value in a[1:]) == 2)
    return int((a[5] == 3 and a[4] == 1) or (a[5] != 4 and a[2] != 3))


def attributes(row: torch.Tensor) -> list[int]:
    """The six attributes of a coded row; fails where the coding is not one of each attribute."""
    parts = row.split([3, 3, 2, 3, 4, 2])
    assert all(part.sum() == 1 and part.max() == 1 for part in parts)
    return [0, *(int(part.argmax()) + 1 for part in parts)]


def wrong(name: str, split: datasets.Split) -> int:
    return sum(rule(name, attributes(row)) != label for row, label in zip(split.images, split.labels, strict=True))


def rows(found: datasets.Split) -> set[tuple[int, ...]]:
    return {tuple(attributes(row)) for row in found.images}


SIZES = {"monks-1": (124, 0), "monks-2": (169, 0), "monks-3": (122, 6)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_monks) for name in datasets.MONKS] + [*datasets.MONKS_BY_RULE]
)
def test_monks_problems_follow_their_rules(name):
    found, (n, noise) = datasets.load(name), SIZES[name[:7]]
    assert [found.train.images.shape, found.validation.images.shape, found.test.images.shape] == [
        (n, 17),
        (0, 17),
        (432, 17),
    ]
    assert found.train.images.dtype == torch.float32 and found.train.labels.dtype == torch.int64
    assert found.classes == ("0", "1") and found.name == name
    assert len(rows(found.train)) == n and len(rows(found.test)) == 432  # no row twice; the test is the full grid
    assert wrong(name, found.test) == 0 and wrong(name, found.train) == noise
    assert ("not the published sample" in found.source) == name.endswith("-rule")
    assert same(found, datasets.load(name))


@needs_monks
@pytest.mark.parametrize(("name", "positive"), [("monks-1", (62, 216)), ("monks-2", (64, 142)), ("monks-3", (60, 228))])
def test_monks_problems_are_the_published_samples(name, positive):
    found = datasets.load(name)
    assert (int(found.train.labels.sum()), int(found.test.labels.sum())) == positive
    lines = (ROOT / "monks" / f"{name}_train.csv").read_text().split()[1:]
    expected = [[int(value) for value in line.split(",")] for line in lines]
    ours = [
        [int(label), *attributes(row)[1:]] for row, label in zip(found.train.images, found.train.labels, strict=True)
    ]
    assert ours == [row[:7] for row in expected]


def monks_files(root: Path, name: str) -> dict[str, list[str]]:
    """The set by rule, written in the form of the published files; returns the lines of both."""
    found, written = datasets.load(f"{name}-rule"), {}
    (root / "monks").mkdir(exist_ok=True)
    for split in ("train", "test"):
        part, lines = getattr(found, split), ["class,a1,a2,a3,a4,a5,a6,id"]
        for row, label in zip(part.images, part.labels, strict=True):
            a = attributes(row)[1:]
            place = 0
            for value, many in zip(a, (3, 3, 2, 3, 4, 2), strict=True):
                place = place * many + value - 1
            lines.append(",".join(map(str, [int(label), *a, place + 1])))
        written[split] = lines
        (root / "monks" / f"{name}_{split}.csv").write_text("\r\n".join(lines) + "\r\n")
    return written


@pytest.mark.parametrize("name", datasets.MONKS)
def test_monks_files_are_read_in_their_order(name, nowhere):
    monks_files(nowhere, name)
    found = datasets.load(name)
    assert same(found, datasets.load(f"{name}-rule")) and found.name == name and "published" in found.source


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "rows, .*; accepted are .* different rows"),
        (lambda lines: [*lines[:-1], lines[1]], "of them different"),
        (lambda lines: lines[1:], "its first line is"),
        (lambda lines: [], "its first line is ''"),
        (lambda lines: lines[:1], "holds 0 rows"),
        (lambda lines: [*lines[:5], lines[5][2:], *lines[6:]], "line 6 is"),
        (lambda lines: [*lines[:5], "x" + lines[5][1:], *lines[6:]], "line 6 is 'x,"),
        (lambda lines: [*lines[:5], "2" + lines[5][1:], *lines[6:]], "line 6 is '2,.*a class of 0 or 1"),
        (lambda lines: [*lines[:5], lines[5][:2] + "9" + lines[5][3:], *lines[6:]], "from 1 to 3, 3, 2, 3, 4, 2"),
        (lambda lines: [*lines[:5], lines[5] + "9", *lines[6:]], "the place of these in the full grid"),
        (lambda lines: [*lines[:5], str(1 - int(lines[5][0])) + lines[5][1:], *lines[6:]], "against the rule"),
    ],
)
def test_a_damaged_monks_file_is_named(split, change, message, nowhere):
    lines = monks_files(nowhere, "monks-1")[split]
    (nowhere / "monks" / f"monks-1_{split}.csv").write_text("\n".join(change(lines)))
    with pytest.raises(ValueError, match=rf"monks-1_{split}\.csv is damaged: .*{message}"):
        datasets.load("monks-1")


def test_another_digit_anywhere_in_a_monks_file_is_an_error(nowhere):
    monks_files(nowhere, "monks-2")
    file = nowhere / "monks" / "monks-2_train.csv"
    content = file.read_text()
    for at in range(content.index("\n") + 1, len(content), 23):
        if content[at].isdigit():
            file.write_text(content[:at] + str((int(content[at]) + 1) % 10) + content[at + 1 :])
            with pytest.raises(ValueError, match=r"monks-2_train\.csv is damaged"):
                datasets.load("monks-2")


def test_monks_problems_that_are_not_there_are_not_replaced(nowhere):
    with pytest.raises(
        FileNotFoundError, match=r"'monks-3' is not in .*monks: put monks-3_train\.csv and monks-3_test"
    ):
        datasets.load("monks-3")


@pytest.mark.parametrize("name", ["monks-1", "monks-3-rule"])
def test_monks_problems_are_not_cut(name):
    with pytest.raises(ValueError, match=f"first is \\(9, 9, 9\\), but {name} is used whole"):
        datasets.load(name, first=(9, 9, 9))


# -- Image folders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("wrap", ["", "things/", "a/b/"])
def test_a_folder_and_a_zip_of_it_give_the_same_tensors(wrap, method, tmp_path):
    plain = datasets.load(str(tree(tmp_path / "tree", TWENTY)))
    archive = zipped(tmp_path / "tree.zip", {"a/": b"", **{wrap + name: c for name, c in TWENTY.items()}}, method)
    assert same(plain, datasets.load(str(archive)))
    assert plain.classes == ("ant", "bee") and [len(plain.train), len(plain.validation), len(plain.test)] == [16, 2, 2]


def test_pixels_and_labels_are_those_of_the_files(tmp_path):
    found = datasets.load(str(tree(tmp_path / "tree", TWENTY)))
    by_pixels = {}
    for name, content in TWENTY.items():
        pixels = np.asarray(Image.open(BytesIO(content)), dtype=np.float32).transpose(2, 0, 1) / 255
        by_pixels[pixels.tobytes()] = ("ant", "bee").index(name.split("/")[0])
    for split in (found.train, found.validation, found.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert image.shape == (3, 5, 6)
            assert by_pixels.pop(image.contiguous().numpy().tobytes()) == label
    assert not by_pixels  # each file exactly once


@pytest.mark.parametrize("validation", ["validation", "val", "valid"])
def test_named_splits_are_kept(validation, tmp_path):
    files = {f"{s}/{name}": c for s in ("train", "test", validation) for name, c in list(TWENTY.items())[: len(s)]}
    found = datasets.load(str(tree(tmp_path / "tree", files)))
    assert [len(found.train), len(found.test), len(found.validation)] == [5, 4, len(validation)]


def test_a_missing_validation_split_is_cut_from_the_training_split(tmp_path):
    files = {f"{s}/{name}": c for s in ("train", "test") for name, c in TWENTY.items()}
    found = datasets.load(str(tree(tmp_path / "tree", files)))
    assert [len(found.train), len(found.validation), len(found.test)] == [18, 2, 20]


def test_a_class_that_only_the_test_has_is_a_class(tmp_path):
    files = {"train/a/1.png": picture(1), "train/b/1.png": picture(2), "test/c/1.png": picture(3)}
    found = datasets.load(str(tree(tmp_path / "t", {**files, "valid/a/9.png": picture(4)})))
    assert found.classes == ("a", "b", "c") and found.test.labels.tolist() == [2]


def test_grey_images_have_one_channel_and_sizes_can_be_brought_to_one(tmp_path):
    files = {f"a/{i}.png": picture(i, "L", (4 + i, 9)) for i in range(10)}
    found = datasets.load(str(tree(tmp_path / "tree", files)), size=8)
    assert found.train.images.shape == (8, 1, 8, 8)
    with pytest.raises(ValueError, match="differ in size: give size="):
        datasets.load(str(tmp_path / "tree"))


def test_what_file_managers_leave_is_no_image(tmp_path):
    plain = datasets.load(str(zipped(tmp_path / "a.zip", TWENTY)))
    junk = {"__MACOSX/ant/._00.png": b"x", "ant/._01.png": b"x", ".DS_Store": b"x", "ant/notes.txt": b"x"}
    assert same(plain, datasets.load(str(zipped(tmp_path / "b.zip", {**TWENTY, **junk}))))


def test_a_name_is_looked_for_below_the_data_root(nowhere):
    zipped(nowhere / "insects.zip", TWENTY)
    found = datasets.load("insects.zip")
    assert found.name == "insects" and len(found.train) == 16


# -- Damage ------------------------------------------------------------------------------------------------------------


def pixels(found: datasets.Dataset) -> set[bytes]:
    return {
        image.contiguous().numpy().tobytes() for s in (found.train, found.validation, found.test) for image in s.images
    }


@pytest.mark.parametrize("content", [b"", b"not a picture", TWENTY["ant/01.png"][:60]])
def test_a_damaged_image_is_named(content, tmp_path):
    for path in (
        tree(tmp_path / "tree", {**TWENTY, "ant/01.png": content}),
        zipped(tmp_path / "z.zip", {**TWENTY, "ant/01.png": content}),
    ):
        with pytest.raises(ValueError, match=r"ant/01\.png is damaged"):
            datasets.load(str(path))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_of_a_zip_is_an_error_or_leaves_the_pixels_as_they_were(method, tmp_path):
    files = dict(list(TWENTY.items())[:4])
    whole = datasets.load(str(zipped(tmp_path / "whole.zip", files, method)))
    content = (tmp_path / "whole.zip").read_bytes()
    refused = 0
    for at in range(0, len(content), 3):
        broken = bytearray(content)
        broken[at] ^= 0x55
        (tmp_path / "whole.zip").write_bytes(broken)
        try:
            found = datasets.load(str(tmp_path / "whole.zip"))
        except ValueError:
            refused += 1
        else:  # names may have changed, pixels never
            assert pixels(found) <= pixels(whole)
    assert refused > len(content) / 6


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_zip_is_refused(content, tmp_path):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.zip is damaged or no zip"):
        datasets.load(str(tmp_path / "x.zip"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no images"),
        ({"a/readme.txt": b"x"}, "holds no images"),
        ({"1.png": picture(1)}, "outside class folders"),
        ({"a/1.png": picture(1), "2.png": picture(2)}, "outside class folders"),
        ({"train/1.png": picture(1), "test/2.png": picture(2)}, "outside class folders"),
        ({f"{s}/a/1.png": picture(1) for s in ("train", "test", "val", "validation")}, "several validation folders"),
    ],
)
def test_a_tree_of_another_form_is_refused(files, message, tmp_path):
    (tmp_path / "tree").mkdir()
    with pytest.raises(ValueError, match=message):
        datasets.load(str(tree(tmp_path / "tree", files)))


def test_images_of_more_than_8_bits_are_refused_not_clipped(tmp_path):
    out = BytesIO()
    Image.fromarray(np.arange(30, dtype=np.uint16).reshape(5, 6) * 2000).save(out, format="png")
    with pytest.raises(ValueError, match=r"a/1\.png has more than 8 bits a channel"):
        datasets.load(str(tree(tmp_path / "tree", {"a/1.png": out.getvalue()})))
