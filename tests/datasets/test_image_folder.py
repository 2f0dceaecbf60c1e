"""Image folders and zips: right or refused."""

import zipfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from small_sets import TWENTY, lengths, picture, pixels, same, tree, zipped

from lib import datasets


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
