"""CIFAR-10: as a zip, a tree and the published files, whole or refused."""

import hashlib
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import ROOT, lengths, picture, same, tree, zipped

from lib import datasets
from lib.datasets import cifar10, image_folder
from lib.vision import torchvision

needs_cifar10 = pytest.mark.skipif(not (ROOT / "cifar10.zip").is_file(), reason="SURVEY_DATA holds no CIFAR-10")


def jpeg(seed: int, quality: int = 75, size: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size // 4, size // 4, 3), dtype=np.uint8).repeat(4, 0)
    out = BytesIO()
    Image.fromarray(pixels.repeat(4, 1)).save(out, format="JPEG", quality=quality)
    return out.getvalue()


CIFAR_FILES = {
    f"cifar10/{split}/{label}/{i:04}.jpg": jpeg(1000 * k + 100 * i + (split == "test"))
    for split, n in (("train", 10), ("test", 3))
    for k, label in enumerate(cifar10.CLASSES)
    for i in range(n)
}


@pytest.fixture
def small(nowhere, monkeypatch):
    """CIFAR-10 may have 10 and 3 images of each class."""
    monkeypatch.setattr(cifar10, "PER_CLASS", {"train": 10, "test": 3})
    return nowhere


def test_cifar10_as_a_zip_or_a_tree_holds_every_file_once(small):
    zipped(small / "cifar10.zip", CIFAR_FILES)
    found = datasets.load("cifar10")
    assert found.name == "cifar10" and found.classes == cifar10.CLASSES
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
            assert (of == "test") == (split == "test") and cifar10.CLASSES[label] == name
    assert not by_pixels
    (small / "cifar10.zip").unlink()
    tree(small, CIFAR_FILES)
    assert same(found, datasets.load("cifar10"))


def test_a_part_of_cifar10_is_its_first_and_decodes_nothing_else(small, monkeypatch):
    zipped(small / "cifar10.zip", CIFAR_FILES)
    whole, opened = datasets.load("cifar10"), []
    monkeypatch.setattr(
        image_folder,
        "opened",
        lambda content, *rest, original=image_folder.opened: (opened.append(1), original(content, *rest))[1],
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
        (CIFAR_FILES | {ONE.replace("train", "val"): jpeg(1)}, "its validation images are .* 1 cat"),
        ({n.replace("/test/", "/other/"): c for n, c in CIFAR_FILES.items()}, "look like splits"),
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
        ValueError, match=r"cat/0003\.jpg in .*cifar10\.zip is damaged or locked: its checksum is wrong"
    ):
        datasets.load("cifar10")
    (small / "cifar10.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cifar10\.zip is damaged or not a zip"):
        datasets.load("cifar10")


def published(root: Path, monkeypatch) -> np.ndarray:
    """torchvision's files with 100 and 20 images; their pixels (120, 32, 32, 3) are returned."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (120, 3, 32, 32), dtype=np.uint8)
    batches = {"train": pixels[:100], "test": pixels[100:]}
    contents = {"meta": {"label_names": list(cifar10.CLASSES)}} | {
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
    with pytest.raises(FileNotFoundError, match=r"'cifar10' is in none of .*\(no network\): put cifar10\.zip into"):
        datasets.load("cifar10")


@needs_cifar10
def test_cifar10_has_its_usual_means(monkeypatch):
    found = datasets.load("cifar10", first=(2000, 10, 500))
    assert found.source.startswith("CIFAR-10, JPEG at quality 75; a fixed part of its 45,000 training, 5,000 valid")
    assert found.train.labels.bincount().tolist() == [200] * 10 and found.test.labels.bincount().tolist() == [50] * 10
    mean, spread = found.train.images.mean(dim=(0, 2, 3)), found.train.images.std(dim=(0, 2, 3))
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.015)
    assert torch.allclose(spread, torch.tensor([0.2470, 0.2435, 0.2616]), atol=0.015)
