"""MNIST and Fashion-MNIST: the published sets, plain or gzipped, whole or refused."""

import gzip
import hashlib
import math
import struct

import numpy as np
import pytest
import torch
from small_sets import ROOT, lengths, tree

from lib import datasets
from lib.datasets import idx, places
from lib.vision import torchvision

HELD = {"mnist": ROOT / "MNIST" / "raw", "fashion-mnist": ROOT / "FashionMNIST" / "raw"}
KINDS = ("images-idx3", "labels-idx1")
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def held(name: str, file: str) -> bytes:
    """A published file, unpacked."""
    plain, packed = HELD[name] / file, HELD[name] / f"{file}.gz"
    return plain.read_bytes() if plain.is_file() else gzip.decompress(packed.read_bytes())


def sets(*names: str) -> list:
    there = {name: all(any(HELD[name].glob(f"{file}*")) for file in FILES) for name in names}
    return [pytest.param(n, marks=pytest.mark.skipif(not there[n], reason=f"SURVEY_DATA holds no {n}")) for n in names]


FETCH = places.fetch
needs_mnist = pytest.mark.skipif(not (HELD["mnist"] / FILES[0]).is_file(), reason="SURVEY_DATA holds no MNIST")


@needs_mnist
def test_mnist_is_the_published_set():
    mnist = datasets.load("mnist")
    assert [len(mnist.train), len(mnist.validation), len(mnist.test)] == [55_000, 5_000, 10_000]
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert mnist.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train.images.min() == 0 and mnist.train.images.max() == 1


@pytest.mark.parametrize("name", sets("mnist", "fashion-mnist"))
def test_splits_are_those_of_torchvision(name, tmp_path):
    found = datasets.load(name)
    published = {"mnist": torchvision.datasets.MNIST, "fashion-mnist": torchvision.datasets.FashionMNIST}[name]
    read = torchvision.datasets.mnist.read_image_file, torchvision.datasets.mnist.read_label_file
    for split, file, part in (
        ("train", "train", slice(55_000)),
        ("validation", "train", slice(55_000, None)),
        ("test", "t10k", slice(None)),
    ):
        for kind in KINDS:
            (tmp_path / kind).write_bytes(held(name, f"{file}-{kind}-ubyte"))
        images, labels = (parse(str(tmp_path / kind)) for parse, kind in zip(read, KINDS, strict=True))
        assert torch.equal(getattr(found, split).images, images[part, None].float() / 255)
        assert torch.equal(getattr(found, split).labels, labels[part])
    if name == "fashion-mnist":
        images = torch.cat([found.train.images, found.validation.images])
        assert round(images.mean().item(), 4) == 0.2860 and round(images.std().item(), 4) == 0.3530
    assert found.train.images.dtype == torch.float32 and found.train.labels.dtype == torch.int64
    assert found.classes == (tuple("0123456789") if name == "mnist" else tuple(published.classes))


NAMES = ("mnist", "fashion-mnist")
RANDOM = np.random.default_rng(0)
SMALL = {  # 60 and 10 images
    file: bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}i", *shape) + RANDOM.bytes(math.prod(shape))
    for file, shape in zip(FILES, ((60, 28, 28), (60,), (10, 28, 28), (10,)), strict=True)
}


@pytest.fixture
def small(nowhere, monkeypatch):
    """Small sets may be the published ones."""
    digests = tuple(hashlib.sha256(SMALL[file]).hexdigest() for file in FILES)
    monkeypatch.setattr(idx, "SHA256", dict.fromkeys(NAMES, digests))
    monkeypatch.setattr(idx, "VALIDATION", 5)
    return nowhere


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [(), FILES, FILES[1:3]])
def test_plain_and_gzipped_files_are_the_same_set(name, packed, small):
    for file in FILES:
        content = SMALL[file]
        content, suffix = (gzip.compress(content, 1), ".gz") if file in packed else (content, "")
        tree(small, {f"{HELD[name].parent.name}/raw/{file}{suffix}": content})
    found = datasets.load(name, first=(20, 10, 30))
    assert lengths(found) == [20, 5, 10] and found.train.images.shape[1:] == (1, 28, 28)
    for split, file in (("train", "train"), ("test", "t10k")):
        labels = np.frombuffer(SMALL[f"{file}-labels-idx1-ubyte"], np.uint8, offset=8)
        assert getattr(found, split).labels.tolist() == labels[: len(getattr(found, split))].tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "cut gzip", "flipped gzip", "empty"])
def test_a_damaged_file_is_named(name, damage, small):
    raw = HELD[name].parent.name + "/raw"
    for file in FILES:
        tree(small, {f"{raw}/{file}": SMALL[file]})
    content = SMALL[FILES[3]]
    (small / raw / FILES[3]).unlink()
    packed = bytearray(gzip.compress(content))
    flipped = bytes([*content[:10], content[10] ^ 1, *content[11:]])
    packed[len(packed) // 2] ^= 1
    suffix = ".gz" if "gzip" in damage else ""
    contents = {"flipped": flipped, "cut": content[:-1], "empty": b"", "flipped gzip": bytes(packed)}
    contents["cut gzip"] = gzip.compress(content)[:-20]
    tree(small, {f"{raw}/{FILES[3]}{suffix}": contents[damage]})
    with pytest.raises(ValueError, match=rf"{FILES[3]}{suffix} is damaged: "):
        datasets.load(name)


@pytest.mark.parametrize("name", NAMES)
def test_files_that_only_bear_the_names_are_damaged(name, nowhere):
    tree(nowhere, {f"{HELD[name].parent.name}/raw/{file}": b"\0\0\x08\x01\0\0\0\0" for file in FILES})
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is damaged"):
        datasets.load(name)


@pytest.mark.parametrize("name", NAMES)
def test_without_files_and_without_network_it_is_said_where_to_put_them(name, nowhere):
    folder = HELD[name].parent.name
    with pytest.raises(
        FileNotFoundError, match=rf"'{name}' is in none of .* \(no network\): put {folder}/raw/train-im"
    ):
        datasets.load(name)


@needs_mnist
def test_a_part_of_mnist():
    part = datasets.load("mnist", first=(50, 10, 20))
    assert lengths(part) == [50, 10, 20] and part.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert part.source.endswith("a fixed part of its 55,000 training, 5,000 validation and 10,000 test images")


@pytest.mark.parametrize("name", NAMES)
def test_what_torchvisions_addresses_send_is_the_set(name, small, server, monkeypatch):
    published = {"mnist": torchvision.datasets.MNIST, "fashion-mnist": torchvision.datasets.FashionMNIST}[name]
    sent = {f"/{file}.gz": gzip.compress(SMALL[file], 1) for file in FILES}
    server.contents = sent
    monkeypatch.setattr(places, "fetch", FETCH)
    monkeypatch.setattr(published, "mirrors", [server.url("/nothing/"), server.url("/")])
    md5 = [(file, hashlib.md5(sent[f"/{file}"]).hexdigest()) for file, _ in published.resources]
    monkeypatch.setattr(published, "resources", md5)
    found = datasets.load(name, first=(5, 5, 5))
    assert len(server.asked) == 8  # the first mirror has nothing
    assert torch.equal(found.train.images, datasets.load(name, first=(5, 5, 5)).train.images)
    assert len(server.asked) == 8
    assert sorted(p.name for p in (small / "data" / HELD[name].parent.name / "raw").iterdir()) == sorted(
        f"{file}.gz" for file in FILES
    )
