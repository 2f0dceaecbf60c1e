"""Data sets: the tensors, the splits, and a clear error for everything that is not to be had."""

import os
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from lib import data
from lib.vision import torchvision

HELD = Path(os.environ.get("SURVEY_DATA", "nowhere")) / "MNIST" / "raw"
needs_mnist = pytest.mark.skipif(not all((HELD / f).is_file() for f in data.MNIST), reason="SURVEY_DATA holds no MNIST")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty data root, an empty working folder, and no network."""

    def fails(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("SURVEY_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets, "MNIST", fails)
    monkeypatch.setattr(data, "_roots", lambda: [tmp_path])
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


def same(a: data.Dataset, b: data.Dataset) -> bool:
    parts = [(getattr(a, s), getattr(b, s)) for s in ("train", "validation", "test")]
    equal = all(torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) for x, y in parts)
    return equal and a.classes == b.classes


# -- digits and MNIST --------------------------------------------------------------------------------------------------


def test_digits_are_all_of_scikit_learns_resized():
    found, bunch = data.load("digits"), load_digits()
    parts = [found.train, found.validation, found.test]
    assert [len(p) for p in parts] == [1078, 270, 449] and found.classes == tuple("0123456789")
    assert np.array_equal(torch.cat([p.labels for p in parts]).bincount(), np.bincount(bunch.target))
    resized = torch.nn.functional.interpolate(
        torch.tensor(bunch.images[:, None] / 16).float(), (28, 28), mode="bilinear"
    )
    expected, ours = ({t.numpy().tobytes() for t in x} for x in (resized, torch.cat([p.images for p in parts])))
    assert ours == expected


def test_splits_share_no_sample_and_are_the_same_each_time(tmp_path):
    again, found = data.load("digits"), data.load("digits")
    assert same(found, again)
    images = [{t.numpy().tobytes() for t in getattr(found, s).images} for s in ("train", "validation", "test")]
    assert not images[0] & images[1] and not images[0] & images[2] and not images[1] & images[2]


def test_splits_do_not_depend_on_the_seeds_of_the_run():
    torch.manual_seed(1)
    np.random.seed(1)
    first = data.load("digits")
    torch.manual_seed(2)
    np.random.seed(2)
    assert same(first, data.load("digits"))


def test_first_takes_what_there_is():
    split = data.load("digits").test
    assert len(split.first(5)) == 5 and len(split.first(10**6)) == len(split) and len(split.first(0)) == 0
    assert torch.equal(split.first(5).images, split.images[:5])


@needs_mnist
def test_mnist_is_the_published_set():
    mnist = data.load("mnist")
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
    for file in data.MNIST:
        (raw / file).symlink_to(HELD / file)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    content = bytearray((HELD / "t10k-labels-idx1-ubyte").read_bytes())
    content[100] ^= 1
    (raw / "t10k-labels-idx1-ubyte").write_bytes(content)
    monkeypatch.setenv("SURVEY_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte is damaged: its SHA-256 is"):
        data.load("mnist")


def test_files_that_only_bear_mnists_names_are_damaged(nowhere):
    tree(nowhere, {f"MNIST/raw/{file}": b"\0\0\x08\x01\0\0\0\0" for file in data.MNIST})
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is damaged"):
        data.load("mnist")


def test_mnist_without_files_and_without_network_says_where_to_put_them(nowhere):
    with pytest.raises(FileNotFoundError, match=r"'mnist' is not in .*MNIST/raw and .*\(no network\)"):
        data.load("mnist")


@pytest.mark.parametrize("name", ["cifar", "", "MNIST ", "digits.zip", "../digits"])
def test_an_unknown_name_lists_the_accepted_ones(name, nowhere):
    with pytest.raises(
        FileNotFoundError, match=f"no data set is called '{name}': accepted are digits, mnist and the path"
    ):
        data.load(name)


# -- Image folders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("wrap", ["", "things/", "a/b/"])
def test_a_folder_and_a_zip_of_it_give_the_same_tensors(wrap, method, tmp_path):
    plain = data.load(str(tree(tmp_path / "tree", TWENTY)))
    archive = zipped(tmp_path / "tree.zip", {"a/": b"", **{wrap + name: c for name, c in TWENTY.items()}}, method)
    assert same(plain, data.load(str(archive)))
    assert plain.classes == ("ant", "bee") and [len(plain.train), len(plain.validation), len(plain.test)] == [16, 2, 2]


def test_pixels_and_labels_are_those_of_the_files(tmp_path):
    found = data.load(str(tree(tmp_path / "tree", TWENTY)))
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
    found = data.load(str(tree(tmp_path / "tree", files)))
    assert [len(found.train), len(found.test), len(found.validation)] == [5, 4, len(validation)]


def test_a_missing_validation_split_is_cut_from_the_training_split(tmp_path):
    files = {f"{s}/{name}": c for s in ("train", "test") for name, c in TWENTY.items()}
    found = data.load(str(tree(tmp_path / "tree", files)))
    assert [len(found.train), len(found.validation), len(found.test)] == [18, 2, 20]


def test_a_class_that_only_the_test_has_is_a_class(tmp_path):
    files = {"train/a/1.png": picture(1), "train/b/1.png": picture(2), "test/c/1.png": picture(3)}
    found = data.load(str(tree(tmp_path / "t", {**files, "valid/a/9.png": picture(4)})))
    assert found.classes == ("a", "b", "c") and found.test.labels.tolist() == [2]


def test_grey_images_have_one_channel_and_sizes_can_be_brought_to_one(tmp_path):
    files = {f"a/{i}.png": picture(i, "L", (4 + i, 9)) for i in range(10)}
    found = data.load(str(tree(tmp_path / "tree", files)), size=8)
    assert found.train.images.shape == (8, 1, 8, 8)
    with pytest.raises(ValueError, match="differ in size: give size="):
        data.load(str(tmp_path / "tree"))


def test_what_file_managers_leave_is_no_image(tmp_path):
    plain = data.load(str(zipped(tmp_path / "a.zip", TWENTY)))
    junk = {"__MACOSX/ant/._00.png": b"x", "ant/._01.png": b"x", ".DS_Store": b"x", "ant/notes.txt": b"x"}
    assert same(plain, data.load(str(zipped(tmp_path / "b.zip", {**TWENTY, **junk}))))


def test_a_name_is_looked_for_below_the_data_root(nowhere):
    zipped(nowhere / "insects.zip", TWENTY)
    found = data.load("insects.zip")
    assert found.name == "insects" and len(found.train) == 16


# -- Damage ------------------------------------------------------------------------------------------------------------


def pixels(found: data.Dataset) -> set[bytes]:
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
            data.load(str(path))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_of_a_zip_is_an_error_or_leaves_the_pixels_as_they_were(method, tmp_path):
    files = dict(list(TWENTY.items())[:4])
    whole = data.load(str(zipped(tmp_path / "whole.zip", files, method)))
    content = (tmp_path / "whole.zip").read_bytes()
    refused = 0
    for at in range(0, len(content), 3):
        broken = bytearray(content)
        broken[at] ^= 0x55
        (tmp_path / "whole.zip").write_bytes(broken)
        try:
            found = data.load(str(tmp_path / "whole.zip"))
        except ValueError:
            refused += 1
        else:  # names may have changed, pixels never
            assert pixels(found) <= pixels(whole)
    assert refused > len(content) / 6


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_zip_is_refused(content, tmp_path):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.zip is damaged or no zip"):
        data.load(str(tmp_path / "x.zip"))


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
        data.load(str(tree(tmp_path / "tree", files)))


def test_images_of_more_than_8_bits_are_refused_not_clipped(tmp_path):
    out = BytesIO()
    Image.fromarray(np.arange(30, dtype=np.uint16).reshape(5, 6) * 2000).save(out, format="png")
    with pytest.raises(ValueError, match=r"a/1\.png has more than 8 bits a channel"):
        data.load(str(tree(tmp_path / "tree", {"a/1.png": out.getvalue()})))
