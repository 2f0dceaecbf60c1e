"""CamVid: the published frames at half their size, with a class for each pixel."""

import io

import given
import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import ROOT, lengths, same, tree, zipped

from lib import datasets
from lib.datasets import archives, camvid

needs_set = pytest.mark.skipif(not (ROOT / "camvid.zip").is_file(), reason="SURVEY_DATA holds no CamVid")
FRAMES = {"train": 6, "val": 3, "test": 4}
# Shares of the pixels of each class and of void, in %, as published.
SHARES = {
    "train": (16.75, 23.23, 0.98, 31.79, 4.48, 9.71, 1.17, 1.13, 5.86, 0.64, 0.29, 3.96),
    "validation": (9.13, 25.86, 0.56, 29.10, 8.72, 16.33, 0.89, 3.09, 1.75, 0.65, 2.22, 1.71),
    "test": (16.97, 24.58, 1.18, 25.92, 9.27, 11.23, 1.01, 1.18, 3.98, 0.63, 0.19, 3.86),
}


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="png")
    return out.getvalue()


def drawn(seed: int, scale: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """An image and its labels, of 240 x 180 pixels times ``scale``, in blocks: noise is slow to compress."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    labels = random.integers(0, 12, (9, 12), dtype=np.uint8)
    return tuple(part.repeat(20 * scale, 0).repeat(20 * scale, 1) for part in (image, labels))


SMALL = {(split, f"{split}_{i}.png"): drawn(100 * n + i) for split, n in FRAMES.items() for i in range(n)}


def packed(small: dict = SMALL) -> dict[str, bytes]:
    files = {}
    for (split, name), (image, labels) in small.items():
        files |= {f"camvid/{split}/images/{name}": png(image), f"camvid/{split}/labels/{name}": png(labels)}
    return files


PACKED = packed()


def digests() -> dict[str, str]:
    found = {}
    for split in FRAMES:
        names = sorted(name for other, name in SMALL if other == split)
        images = np.stack([SMALL[split, name][0].transpose(2, 0, 1) for name in names])
        labels = np.stack([SMALL[split, name][1][None] for name in names])
        found[split] = camvid.digest([(f"x/{name}", name) for name in names], np.arange(len(names)), images, labels)
    return found


@pytest.fixture
def small(nowhere, monkeypatch):
    """A small set may be the published one."""
    monkeypatch.setattr(camvid, "FRAMES", FRAMES)
    monkeypatch.setattr(camvid, "SHA256", digests())
    return nowhere


def test_each_frame_is_in_its_split_with_its_labels(small):
    zipped(small / "camvid.zip", PACKED)
    found = datasets.load("camvid")
    assert lengths(found) == [6, 3, 4] and len(found.classes) == 11 and found.source == "CamVid, 240 x 180"
    by_pixels = {
        (image.transpose(2, 0, 1) / np.float32(255)).tobytes(): (split, labels)
        for (split, _), (image, labels) in SMALL.items()
    }
    for of, split in (("train", found.train), ("val", found.validation), ("test", found.test)):
        assert split.images.dtype == torch.float32 and split.labels.dtype == torch.int64
        for image, labels in zip(split.images, split.labels, strict=True):
            expected = by_pixels.pop(image.numpy().tobytes())
            assert expected[0] == of and np.array_equal(labels.numpy(), expected[1])
    assert not by_pixels


def test_a_part_is_the_first_of_the_whole_and_opens_nothing_else(small):
    zipped(small / "camvid.zip", PACKED)
    whole, part = datasets.load("camvid"), datasets.load("camvid", first=(2, 1, 10**6))
    assert lengths(part) == [2, 1, 4]
    assert torch.equal(part.train.images, whole.train.images[:2])
    assert torch.equal(part.train.labels, whole.train.labels[:2])
    assert part.source.endswith("a fixed part of its 6 training, 3 validation and 4 test images")
    (small / "camvid.zip").unlink()
    tree(small, PACKED)
    assert same(whole, datasets.load("camvid"))


IMAGE, LABELS = "camvid/val/images/val_1.png", "camvid/val/labels/val_1.png"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({n: c for n, c in PACKED.items() if n != IMAGE}, "its val split has 2 images and 3 files of labels"),
        ({n: c for n, c in PACKED.items() if n != LABELS}, "its val split has 3 images and 2 files of labels"),
        (
            {n.replace("labels/val_1", "labels/val_9"): c for n, c in PACKED.items()},
            "accepted are 3 of both, with the same names",
        ),
        (
            PACKED | {IMAGE.replace("_1", "_9"): PACKED[IMAGE], LABELS.replace("_1", "_9"): PACKED[LABELS]},
            "has 4 images",
        ),
        (PACKED | {IMAGE: PACKED[IMAGE.replace("_1", "_2")]}, "the SHA-256 of its val pixels is"),
        (PACKED | {LABELS: PACKED[LABELS.replace("_1", "_2")]}, "the SHA-256 of its val pixels is"),
        (PACKED | {LABELS: png(np.full((180, 240), 12, np.uint8))}, "labels from 0 to 11"),
        (PACKED | {IMAGE: PACKED[IMAGE][:200]}, "is damaged"),
        (packed({key: drawn(i, 2) for i, key in enumerate(SMALL)}), "accepted are 240 x 180 pixels"),
        ({"readme.txt": b"x"}, "its train split has 0 images"),
    ],
)
def test_what_is_not_camvid_is_refused(files, message, small):
    zipped(small / "camvid.zip", files)
    with pytest.raises(ValueError, match=message):
        datasets.load("camvid")


def averaged(rows: np.ndarray) -> np.ndarray:
    """Half as many rows, each of four: those at the edges of fewer."""
    padded, there = (np.pad(part, ((1, 1), (0, 0), (0, 0))) for part in (rows, np.ones_like(rows)))
    total, weight = (
        sum(w * part[offset:][: len(rows) : 2] for offset, w in enumerate((1, 3, 3, 1))) for part in (padded, there)
    )
    return total / weight


def test_images_are_averaged_and_labels_picked(tmp_path):
    image, labels = np.random.default_rng(1).integers(0, 256, (360, 480, 3), np.uint8), drawn(2, 2)[1]
    files = {"repo/CamVid/val/a.png": png(image), "repo/CamVid/valannot/a.png": png(labels), "repo/x/train/a.png": b"x"}
    halves = dict(camvid.halved(archives.opened(zipped(tmp_path / "x.zip", files))))
    assert list(halves) == ["camvid/val/images/a.png", "camvid/val/labels/a.png"]
    found = np.asarray(Image.open(io.BytesIO(halves["camvid/val/images/a.png"]))).astype(float)
    # A filter of the triangle's form: each output averages four inputs with weights 1, 3, 3, 1 of 8.
    expected = averaged(averaged(image.astype(float)).transpose(1, 0, 2)).transpose(1, 0, 2)
    assert np.abs(found - expected).max() <= 1.01  # rounded twice
    picked = np.asarray(Image.open(io.BytesIO(halves["camvid/val/labels/a.png"])))
    assert np.array_equal(picked, labels[::2, ::2])  # blocks of 40: every pick is in the same block


def test_the_repositorys_archive_is_the_set(small, server, monkeypatch, tmp_path):
    large = {}
    for (split, name), (image, labels) in SMALL.items():
        double = [part.repeat(2, 0).repeat(2, 1) for part in (image, labels)]
        large |= {f"repo/CamVid/{split}/{name}": png(double[0]), f"repo/CamVid/{split}annot/{name}": png(double[1])}
    halves = dict(camvid.halved(archives.opened(zipped(tmp_path / "repo.zip", large | {"repo/README.md": b"x"}))))
    # What the averaging makes of them is the published set here.
    for (split, name), (_, labels) in list(SMALL.items()):
        pixels = np.asarray(Image.open(io.BytesIO(halves[f"camvid/{split}/images/{name}"])))
        monkeypatch.setitem(SMALL, (split, name), (pixels, labels))
    monkeypatch.setattr(camvid, "SHA256", digests())
    given.archive_comes_from(server, monkeypatch, camvid, (tmp_path / "repo.zip").read_bytes())
    found = datasets.load("camvid")
    assert same(found, datasets.load("camvid")) and len(server.asked) == 1 and lengths(found) == [6, 3, 4]
    assert sorted(path.name for path in (small / "data").iterdir()) == [".camvid.lock", "camvid.zip"]


@pytest.mark.parametrize("files", [{"repo/README.md": b"x"}, {"repo/CamVid/val/a.png": b"no image"}])
def test_another_archive_is_refused_and_nothing_is_kept(files, small, server, monkeypatch, tmp_path):
    given.archive_comes_from(server, monkeypatch, camvid, zipped(tmp_path / "repo.zip", files).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"is damaged: .*: put camvid\.zip into the folder"):
        datasets.load("camvid")
    assert [path.name for path in (small / "data").iterdir()] == [".camvid.lock"]


def test_without_files_and_without_network_it_is_said_where_to_put_them(nowhere):
    with pytest.raises(FileNotFoundError, match=r"\(no network\): put camvid\.zip into"):
        datasets.load("camvid")


@needs_set
def test_the_published_set_has_its_shares_means_and_spreads():
    found = datasets.load("camvid")
    assert lengths(found) == [367, 101, 233]
    for split, shares in SHARES.items():
        counts = getattr(found, split).labels.flatten().bincount(minlength=12).double()
        assert torch.allclose(100 * counts / counts.sum(), torch.tensor(shares).double(), atol=0.0051)
    images = found.train.images
    assert [round(x, 4) for x in images.mean(dim=(0, 2, 3)).tolist()] == [0.4123, 0.4256, 0.4331]
    assert [round(x, 4) for x in images.std(dim=(0, 2, 3)).tolist()] == [0.2993, 0.3035, 0.2996]
