"""MNIST: the published set, whole or refused."""

import pytest
import torch
from small_sets import ROOT, lengths, tree

from lib import datasets
from lib.datasets import idx

HELD = ROOT / "MNIST" / "raw"


needs_mnist = pytest.mark.skipif(not all((HELD / f).is_file() for f in idx.MNIST), reason="SURVEY_DATA holds no MNIST")


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
    for file in idx.MNIST:
        (raw / file).symlink_to(HELD / file)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    content = bytearray((HELD / "t10k-labels-idx1-ubyte").read_bytes())
    content[100] ^= 1
    (raw / "t10k-labels-idx1-ubyte").write_bytes(content)
    monkeypatch.setenv("SURVEY_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte is damaged: its SHA-256 is"):
        datasets.load("mnist")


def test_files_that_only_bear_mnists_names_are_damaged(nowhere):
    tree(nowhere, {f"MNIST/raw/{file}": b"\0\0\x08\x01\0\0\0\0" for file in idx.MNIST})
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is damaged"):
        datasets.load("mnist")


def test_mnist_without_files_and_without_network_says_where_to_put_them(nowhere):
    with pytest.raises(FileNotFoundError, match=r"'mnist' is not in .*MNIST/raw and .*\(no network\)"):
        datasets.load("mnist")


@needs_mnist
def test_a_part_of_mnist():
    part = datasets.load("mnist", first=(50, 10, 20))
    assert lengths(part) == [50, 10, 20] and part.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert part.source.endswith("a fixed part of its 55,000 training, 5,000 validation and 10,000 test images")
