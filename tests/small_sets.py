"""Small data sets, written to files or compared, for the tests of this folder."""

import os
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib import datasets

ROOT = Path(os.environ.get("SURVEY_DATA", "nowhere"))


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


def lengths(found: datasets.Dataset) -> list[int]:
    return [len(found.train), len(found.validation), len(found.test)]


def pixels(found: datasets.Dataset) -> set[bytes]:
    return {
        image.contiguous().numpy().tobytes() for s in (found.train, found.validation, found.test) for image in s.images
    }
