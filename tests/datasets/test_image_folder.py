"""Image folders and zips: right or refused."""

import stat
import unicodedata
import zipfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from small_sets import TWENTY, lengths, picture, pixels, same, tree, zipped

from lib import datasets


@pytest.mark.parametrize("named", [False, True])
def test_a_part_of_a_folder_opens_no_other_file(named, tmp_path):
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


def test_gray_images_have_one_channel_and_sizes_can_be_brought_to_one(tmp_path):
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
def test_a_flipped_byte_of_a_zip_is_an_error_or_changes_nothing(method, tmp_path):
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
    with pytest.raises(ValueError, match=r"x\.zip is damaged or not a zip"):
        datasets.load(str(tmp_path / "x.zip"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no images"),
        ({"a/readme.txt": b"x"}, "holds no images"),
        ({"1.png": picture(1)}, "outside class folders"),
        ({"a/1.png": picture(1), "2.png": picture(2)}, "outside class folders"),
        ({"train/1.png": picture(1), "test/2.png": picture(2)}, "outside class folders"),
        (
            {f"{s}/a/1.png": picture(1) for s in ("train", "test", "val", "validation")},
            "several validation folders, val and validation",
        ),
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


# -- Links -------------------------------------------------------------------------------------------------------------


def test_links_at_any_depth_are_followed(tmp_path):
    plain = datasets.load(str(tree(tmp_path / "plain", TWENTY)))
    store = tree(tmp_path / "store", TWENTY)
    (tmp_path / "classes").mkdir()
    for name in ("ant", "bee"):
        (tmp_path / "classes" / name).symlink_to(store / name)
    (tmp_path / "root").symlink_to(tmp_path / "classes")
    (tmp_path / "files" / "ant").mkdir(parents=True)
    for file in (store / "ant").iterdir():
        (tmp_path / "files" / "ant" / file.name).symlink_to(file)
    (tmp_path / "files" / "bee" / "deep").mkdir(parents=True)
    (tmp_path / "files" / "bee" / "deep" / "er").symlink_to(tmp_path / "root" / "bee")
    assert same(plain, datasets.load(str(tmp_path / "classes"))) and same(plain, datasets.load(str(tmp_path / "root")))
    assert pixels(datasets.load(str(tmp_path / "files"))) == pixels(plain)


def test_a_linked_split_is_that_split(tmp_path):
    tree(tmp_path / "store", TWENTY)
    tree(tmp_path / "tree" / "train", {name: c for name, c in TWENTY.items() if name < "ant/10"} | {"bee/x.png": ONE})
    (tmp_path / "tree" / "test").symlink_to(tmp_path / "store")
    assert len(datasets.load(str(tmp_path / "tree")).test) == 20


@pytest.mark.parametrize("link", ["ant", "eel", "ant/99.png", "bee/deep"])
def test_a_broken_link_is_named(link, tmp_path):
    root = tree(tmp_path / "tree", {name: c for name, c in TWENTY.items() if not name.startswith(f"{link}/")})
    (root / link).symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=f"tree/{link} is a broken link"):
        datasets.load(str(root))


@pytest.mark.parametrize("link", ["round", "ant/round", "ant/a/b/round"])
def test_a_link_to_a_folder_that_holds_it_ends_in_an_error(link, tmp_path):
    root = tree(tmp_path / "tree", TWENTY)
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(root)
    with pytest.raises(ValueError, match="round is a link to a folder that holds it"):
        datasets.load(str(root))


# -- Splits ------------------------------------------------------------------------------------------------------------

ONE = picture(77)
CATS = {f"{name}/{i}.png": picture(30 + i, size=(4, 4)) for name in ("cat", "dog") for i in range(5)}


def split_tree(*folders: str) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for folder in folders for name, content in CATS.items()}


@pytest.mark.parametrize(
    "folders",
    [
        *(("train", test) for test in ("test", "testing", "tst", "eval", "evaluation", "TEST")),
        *(("train", val) for val in ("val", "valid", "validation", "validate", "dev", "development", "Val")),
        *((train, "test") for train in ("training", "Train", "TRAIN", "trn")),
        ("train", "val", "test"),
        ("Training", "Dev", "Eval"),
        ("things/train", "things/val", "things/test"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_splits_are_known_by_their_usual_names(folders, packed, tmp_path):
    files = split_tree(*folders)
    path = zipped(tmp_path / "x.zip", files) if packed else tree(tmp_path / "x", files)
    found = datasets.load(str(path))
    assert found.classes == ("cat", "dog")
    if len(folders) == 3:
        assert lengths(found) == [10, 10, 10] and "cut" not in found.source
    elif folders[1][0].lower() in "vd":  # validation, under one of its names
        assert lengths(found) == [9, 10, 1] and "its test split is cut from the training images" in found.source
    else:
        assert lengths(found) == [9, 1, 10] and "its validation split is cut from the training images" in found.source


def test_the_split_that_is_cut_shares_no_image_with_the_rest(tmp_path):
    files = {f"train/{name}": content for name, content in TWENTY.items()} | {
        "val/ant/v.png": ONE,
        "val/bee/v.png": ONE,
    }
    found = datasets.load(str(tree(tmp_path / "x", files)))
    train, test = ({image.numpy().tobytes() for image in part.images} for part in (found.train, found.test))
    assert lengths(found) == [18, 2, 2] and not train & test and len(train | test) == 20


def test_folders_beside_the_splits_are_left_out_and_named(tmp_path):
    files = split_tree("train", "test", "extra") | {"unlabeled/a.png": ONE}
    found = datasets.load(str(tree(tmp_path / "x", files)))
    assert found.classes == ("cat", "dog") and lengths(found) == [9, 1, 10]
    assert "left out: extra, unlabeled" in found.source


@pytest.mark.parametrize(
    "folders",
    [
        ("fold1", "fold2"),
        ("a", "b", "c"),
        ("train", "extra"),
        ("val", "test"),
        ("dev", "eval"),
        ("learn", "check"),
        ("train_2017", "val_2017"),
        ("train-set", "test-set"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_splits_under_other_names_are_not_taken_for_classes(folders, packed, tmp_path):
    files = split_tree(*folders)
    path = zipped(tmp_path / "x.zip", files) if packed else tree(tmp_path / "x", files)
    with pytest.raises(
        ValueError, match="look like splits, since they hold the folders cat, dog: accepted is a training"
    ):
        datasets.load(str(path))


def test_a_class_that_one_split_lacks_does_not_hide_the_splits(tmp_path):
    with pytest.raises(ValueError, match="look like splits"):
        datasets.load(str(tree(tmp_path / "x", split_tree("fold1", "fold2") | {"fold2/emu/1.png": ONE})))
    with pytest.raises(ValueError, match="look like splits"):
        datasets.load(str(tree(tmp_path / "y", split_tree("train") | {"rest/emu/1.png": ONE, "rest/fox/1.png": ONE})))


def test_splits_inside_of_classes_are_not_mixed(tmp_path):
    files = {
        f"{label}/{split}/{i}.png": ONE for label in ("cat", "dog") for split in ("train", "test") for i in range(3)
    }
    with pytest.raises(ValueError, match="look like splits, since they hold the folders test, train"):
        datasets.load(str(tree(tmp_path / "x", files)))


@pytest.mark.parametrize(
    "files",
    [
        {f"{label}/images/{i}.png": ONE for label in ("cat", "dog") for i in range(5)},
        {f"{label}/{year}/{i}.png": ONE for label, year in (("cat", 1), ("cat", 2), ("dog", 2)) for i in range(5)},
        {f"{label}/{i}.png": ONE for label in ("train", "bus") for i in range(5)},  # a train is a vehicle too
    ],
)
def test_folders_inside_of_classes_are_no_splits(files, tmp_path):
    labels = sorted({name.split("/")[0] for name in files})
    assert datasets.load(str(tree(tmp_path / "x", files))).classes == tuple(labels)


@pytest.mark.parametrize("twice", [("train", "Train"), ("train", "training")])
def test_two_folders_for_one_split_are_refused(twice, tmp_path):
    with pytest.raises(ValueError, match=r"holds several train folders, \w+ and \w+: accepted is one"):
        datasets.load(str(tree(tmp_path / "x", split_tree(*twice, "test"))))


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_classes_that_differ_in_case_alone_are_refused(prefix, tmp_path):
    files = {f"{prefix}{name}": c for name, c in CATS.items()} | {f"{prefix}Cat/1.png": ONE}
    files |= {"test/cat/1.png": ONE} if prefix else {}
    with pytest.raises(ValueError, match=r"holds the classes (Cat and cat|cat and Cat): accepted is one spelling"):
        datasets.load(str(tree(tmp_path / "x", files)))


# -- Color -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("gray", [(), ("ant/01.png",), ("bee/18.png",), ("ant/01.png", "bee/00.png"), tuple(TWENTY)])
def test_images_are_gray_only_where_all_are(gray, packed, tmp_path):
    files = {name: picture(i, "L" if name in gray else "RGB") for i, name in enumerate(TWENTY)}
    path = zipped(tmp_path / "x.zip", files) if packed else tree(tmp_path / "x", files)
    found = datasets.load(str(path))
    assert found.train.images.shape[1] == (1 if len(gray) == 20 else 3)
    mixed = 0 < len(gray) < 20
    assert (f"{len(gray)} of its 20 images are gray, read as color" in found.source) == mixed
    for n in (1, 3):  # of a part, too: the one color image may not be in it
        assert datasets.load(str(path), first=(n, 1, 1)).train.images.shape[1] == found.train.images.shape[1]


@pytest.mark.parametrize(
    ("modes", "channels"), [(("L", "1"), 1), (("L", "LA"), 1), (("L", "P"), 3), (("L", "RGBA"), 3)]
)
def test_modes_without_color_are_gray(modes, channels, tmp_path):
    files = {f"ant/{i}.png": picture(i, modes[i % 2]) for i in range(10)}
    assert datasets.load(str(tree(tmp_path / "x", files))).train.images.shape[1] == channels


# -- Names in zips -----------------------------------------------------------------------------------------------------


def test_backslashes_dots_and_capital_suffixes_are_read(tmp_path):
    plain = datasets.load(str(zipped(tmp_path / "plain.zip", TWENTY)))
    for change in (
        lambda name: name.replace("/", "\\"),
        lambda name: f"./{name}",
        lambda name: f"things/./{name}",
        lambda name: f"things\\{name}",
        lambda name: name.replace(".png", ".PNG"),
        lambda name: name.replace(".png", ".Png"),
    ):
        path = zipped(tmp_path / "x.zip", {change(name): content for name, content in TWENTY.items()})
        assert same(plain, datasets.load(str(path)))


@pytest.mark.parametrize(
    "name", ["/ant/x.png", "../ant/x.png", "ant/../../x.png", "C:/ant/x.png", "..\\x.png", "\\a\\x.png"]
)
def test_names_that_lead_out_of_a_zip_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="accepted are names that stay inside the zip"):
        datasets.load(str(zipped(tmp_path / "x.zip", TWENTY | {name: ONE})))


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds ant/01\.png twice"):
        datasets.load(str(zipped(tmp_path / "x.zip", TWENTY | {"ant\\01.png": ONE})))
    with (
        zipfile.ZipFile(zipped(tmp_path / "y.zip", TWENTY), "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr("ant/01.png", ONE)
    with pytest.raises(ValueError, match=r"holds ant/01\.png twice"):
        datasets.load(str(tmp_path / "y.zip"))


@pytest.mark.parametrize("name", ["eel", "ant/99.png"])
def test_links_in_a_zip_are_refused(name, tmp_path):
    link = zipfile.ZipInfo(name)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(zipped(tmp_path / "x.zip", TWENTY), "a") as archive:
        archive.writestr(link, "../store")
    with pytest.raises(ValueError, match=f"holds the link {name}"):
        datasets.load(str(tmp_path / "x.zip"))


def test_folders_of_a_zip_are_no_images(tmp_path):
    plain = datasets.load(str(zipped(tmp_path / "a.zip", TWENTY)))
    assert same(plain, datasets.load(str(zipped(tmp_path / "b.zip", {"ant/": b"", "eel.png/": b"", **TWENTY}))))


@pytest.mark.parametrize("label", ["größe", "猫", "e\u0301"])  # the last: an e and its accent
def test_names_beyond_ascii_are_kept(label, tmp_path):
    files = {f"{label}/{i}.png": ONE for i in range(10)} | {f"b/{i}.png": ONE for i in range(10)}
    wanted = tuple(sorted(("b", unicodedata.normalize("NFC", label))))
    path = zipped(tmp_path / "x.zip", files)
    assert datasets.load(str(path)).classes == datasets.load(str(tree(tmp_path / "x", files))).classes == wanted
    # The same zip from a tool that writes UTF-8 without saying so: bit 11 is off in both headers of each file.
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        at = content.find(signature)
        while at >= 0:
            content[at + place] &= 0xF7
            at = content.find(signature, at + 1)
    path.write_bytes(content)
    assert datasets.load(str(path)).classes == wanted


# -- Arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "8", (8, 8)])
def test_a_size_of_another_form_is_refused(size, tmp_path):
    tree(tmp_path / "x", TWENTY)
    with pytest.raises(ValueError, match=r"size is .*: accepted is a whole number of pixels from 1 up"):
        datasets.load(str(tmp_path / "x"), size=size)


def test_paths_and_numpys_integers_are_accepted(tmp_path):
    path = tree(tmp_path / "x", TWENTY)
    found = datasets.load(path, size=np.int64(4), first=np.array([5, 1, 2]))
    assert found.train.images.shape == (5, 3, 4, 4) and same(found, datasets.load(str(path), size=4, first=(5, 1, 2)))
