"""Spoken digits: the published recordings, scaled, cut and padded to one second."""

import io
import wave
import zipfile
from collections import Counter

import given
import numpy as np
import pytest
import torch
from small_sets import ROOT, lengths, same, tree, zipped

from lib import datasets
from lib.datasets import archives, spoken_digits

needs_set = pytest.mark.skipif(not (ROOT / "fsdd.zip").is_file(), reason="SURVEY_DATA holds no spoken digits")


def wav(samples: np.ndarray, rate: int = 8_000, channels: int = 1) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


RANDOM = np.random.default_rng(0)
SMALL = {  # two speakers, index 0 to 11: of each digit 4 to train, 10 to validate, 10 to test
    f"{digit}_{speaker}_{index}.wav": wav(RANDOM.integers(-500, 400, size=500 + 800 * index))
    for digit in range(10)
    for speaker in ("ann", "bob")
    for index in range(12)
}


@pytest.fixture
def small(nowhere, monkeypatch):
    """A small set may be the published one."""
    monkeypatch.setattr(spoken_digits, "SHA256", archives.digest(SMALL, SMALL.__getitem__))
    return nowhere


def packed(prefix: str = "fsdd/recordings/") -> dict[str, bytes]:
    return {prefix + name: content for name, content in SMALL.items()}


def expected(name: str) -> np.ndarray:
    with wave.open(io.BytesIO(SMALL[name])) as file:
        samples = np.frombuffer(file.readframes(10**6), "<i2").astype(np.float64)
    second = np.zeros(8_000)
    second[: min(len(samples), 8_000)] = samples[:8_000]
    return (second / np.abs(samples).max()).astype(np.float32)


def test_each_recording_is_scaled_cut_and_padded_and_in_its_split(small):
    zipped(small / "fsdd.zip", packed(), zipfile.ZIP_DEFLATED)
    found = datasets.load("spoken-digits")
    assert lengths(found) == [40, 100, 100] and found.classes == tuple("0123456789")
    by_sound = {expected(name).tobytes(): name for name in SMALL}
    for split in ("train", "validation", "test"):
        part = getattr(found, split)
        assert part.images.shape[1:] == (1, 8000) and part.images.dtype == torch.float32
        assert (part.labels.view(-1, 10).sort(dim=1).values == torch.arange(10)).all()  # round by round
        for sound, label in zip(part.images, part.labels, strict=True):
            digit, _, index = by_sound.pop(sound[0].numpy().tobytes()).removesuffix(".wav").split("_")
            assert int(digit) == label
            assert split == ("test" if int(index) < 5 else "validation" if int(index) < 10 else "train")
    assert not by_sound
    # Longer than a second are those of index 10 and 11.
    assert found.source == "free spoken digits (FSDD); 40 of 240 recordings are cut to one second"


def test_folder_and_zip_are_one_set_and_a_part_is_its_first(small):
    zipped(small / "fsdd.zip", packed())
    whole, part = datasets.load("spoken-digits"), datasets.load("spoken-digits", first=(10, 5, 10**6))
    assert lengths(part) == [10, 5, 100]
    assert torch.equal(part.train.images, whole.train.images[:10]) and torch.equal(part.test.labels, whole.test.labels)
    assert part.source.endswith("a fixed part of its 40 training, 100 validation and 100 test recordings")
    (small / "fsdd.zip").unlink()
    tree(small, packed())
    assert same(whole, datasets.load("spoken-digits"))


ONE = "fsdd/recordings/3_bob_7.wav"


@pytest.mark.parametrize(
    "files",
    [
        {name: content for name, content in packed().items() if name != ONE},
        packed() | {ONE: packed()[ONE][:-2]},
        packed() | {ONE.replace("bob", "cid"): packed()[ONE]},
        packed() | {ONE: packed()[ONE.replace("3", "4")]},
        {},
    ],
)
def test_other_recordings_are_refused(files, small):
    zipped(small / "fsdd.zip", files)
    with pytest.raises(ValueError, match=r"fsdd\.zip is damaged: the SHA-256 of its \d+ recordings is"):
        datasets.load("spoken-digits")


@pytest.mark.parametrize("form", [{"rate": 16_000}, {"channels": 2}])
def test_another_form_of_sound_is_refused(form):
    with pytest.raises(ValueError, match=r"x\.wav is not mono, 16 bits and 8000 samples a second"):
        spoken_digits.decoded(wav(np.arange(100), **form), "x.wav")


def test_without_files_and_without_network_it_is_said_where_to_put_them(nowhere):
    with pytest.raises(FileNotFoundError, match=r"\(no network\): put fsdd\.zip into"):
        datasets.load("spoken-digits")


def test_the_repositorys_archive_is_the_set(small, server, monkeypatch, tmp_path):
    others = {"repo/README.md": b"x", "repo/utils/0_ann_0.wav": b"x", "repo/recordings/readme.wav": b"x"}
    archive = zipped(tmp_path / "repo.zip", packed("repo/recordings/") | others)
    given.archive_comes_from(server, monkeypatch, spoken_digits, archive.read_bytes())
    found = datasets.load("spoken-digits")
    assert same(found, datasets.load("spoken-digits")) and len(server.asked) == 1 and lengths(found) == [40, 100, 100]
    assert sorted(path.name for path in (small / "data").iterdir()) == [".spoken-digits.lock", "fsdd.zip"]
    with zipfile.ZipFile(small / "data" / "fsdd.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == packed()


@pytest.mark.parametrize("sent", ["other recordings", "no zip"])
def test_another_archive_is_refused_and_not_kept(sent, small, server, monkeypatch, tmp_path):
    other = zipped(tmp_path / "repo.zip", packed("repo/recordings/") | {"repo/recordings/9_eve_1.wav": b"x"})
    content = other.read_bytes() if sent == "other recordings" else b"no zip"
    given.archive_comes_from(server, monkeypatch, spoken_digits, content)
    with pytest.raises(FileNotFoundError, match=r"is damaged.*: put fsdd\.zip into the folder"):
        datasets.load("spoken-digits")
    assert [path.name for path in (small / "data").iterdir()] == [".spoken-digits.lock"]


@needs_set
def test_the_published_set_is_balanced_and_its_recordings_are_a_second_long():
    found = datasets.load("spoken-digits")
    assert lengths(found) == [2_400, 300, 300] and "20 of 3,000 recordings are cut to one second" in found.source
    for split in (found.train, found.validation, found.test):
        assert Counter(split.labels.tolist()) == dict.fromkeys(range(10), len(split) // 10)
        assert split.images.abs().amax(dim=(1, 2)).max() == 1 and split.images.abs().amax(dim=(1, 2)).min() > 0.5
