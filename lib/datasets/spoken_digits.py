"""Free spoken digits (FSDD): recordings of ten digits by six speakers, 8,000 samples per second."""

import io
import re
import wave
import zipfile
from pathlib import Path

import numpy as np
import torch

from lib.datasets import Dataset, Split, archives, places
from lib.datasets.splits import describe, numbers, rounds

RATE = 8_000  # samples per second
COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
URL = f"https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/zip/{COMMIT}"
SHA256 = "99aa5e3a7c822ab55b2a3b47e0b05aeb9f011c54837a12e3831ad24108330829"
NAME = re.compile(r"(?:.*/)?recordings/((\d)_[a-z]+_(\d+)\.wav)")  # {digit}_{speaker}_{index}.wav


def load(first: tuple[int, ...] | None) -> Dataset:
    """Load 2,400 / 300 / 300 recordings (1, 8000) of one second.

    They are the recordings 10 to 49, 5 to 9 and 0 to 4 of each digit and speaker: the test split is the published one,
    and each speaker is in every split. Each recording is scaled to a peak of 1, and cut or zero-padded to one second.
    Each split cycles through the ten digits.

    first: the largest number of recordings of each split, None for all.

    Raises FileNotFoundError if the set is missing and cannot be downloaded, ValueError if it is damaged.
    """
    (path,) = places.obtain("spoken-digits", download)
    contents = recordings(path)
    names = sorted(contents)
    labels = np.array([int(name[0]) for name in names])
    index = np.array([int(name.removesuffix(".wav").split("_")[2]) for name in names])
    splits, whole, cut = [], [], 0
    parts = (index >= 10, (index >= 5) & (index < 10), index < 5)
    for part, n in zip(parts, first or (None, None, None), strict=True):
        places_in_part = np.flatnonzero(part)
        order = places_in_part[rounds(labels[places_in_part])]
        whole.append(len(order))
        sounds = np.zeros((len(order[:n]), 1, RATE), np.float32)
        for sound, i in zip(sounds, order[:n], strict=True):
            samples = decoded(contents[names[i]], f"{names[i]} in {path}")
            cut += len(samples) > RATE
            sound[0, : len(samples)] = samples[:RATE] / np.abs(samples).max()
        splits.append(Split(torch.from_numpy(sounds), torch.from_numpy(labels[order[:n]]).long()))
    source = f"free spoken digits (FSDD); {cut} of {sum(map(len, splits)):,} recordings are cut to one second"
    source = describe(source, whole, [len(split) for split in splits], "recordings")
    return Dataset("spoken-digits", source, splits[0], splits[1], splits[2], numbers(10))


def recordings(path: Path) -> dict[str, bytes]:
    """Return the recordings in a zip or folder, by name.

    path: of the zip or folder.

    Raises ValueError if they are not the published ones.
    """
    archive = archives.opened(path)
    found = {match[1]: name for name in archive.names if (match := NAME.fullmatch(name))}
    contents = {short: archive.read(name) for short, name in found.items()}
    if (sha256 := archives.digest(contents, contents.__getitem__)) != SHA256:
        raise ValueError(
            f"{path} is damaged: the SHA-256 of its {len(contents):,} recordings is {sha256[:12]}…,"
            f" that of the 3,000 published ones {SHA256[:12]}…"
        )
    return contents


def decoded(content: bytes, name: str) -> np.ndarray:
    """Return the samples of a wav file, float32.

    content: of the file.
    name: of the file, for messages.

    Raises ValueError if it is not mono with 16 bits and 8,000 samples per second.
    """
    with wave.open(io.BytesIO(content)) as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, RATE):
            raise ValueError(f"{name} is not mono, 16 bits and {RATE} samples a second")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)


def download(home: Path) -> None:
    """Download the repository's archive and write ``fsdd.zip`` with its recordings.

    home: the data folder.
    """
    packed = places.fetch(URL, home / "free-spoken-digit-dataset.zip")
    try:
        contents = recordings(packed)
        files = [(f"fsdd/recordings/{name}", contents[name]) for name in sorted(contents)]
        archives.write(home / "fsdd.zip", files, zipfile.ZIP_DEFLATED)
    finally:
        packed.unlink()
