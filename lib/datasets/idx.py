"""MNIST, from its four idx files."""

import hashlib
from pathlib import Path

from lib.datasets import Dataset, Split, places
from lib.datasets.splits import numbers

# SHA-256 of MNIST's four files: a damaged file is an error, not a slightly different data set.
MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def mnist() -> Dataset:
    from lib.vision import torchvision

    tried = []
    for root in places.roots():
        raw = root / "MNIST" / "raw"
        tried.append(str(raw))
        if all((raw / file).is_file() for file in MNIST):
            break
    else:
        root = Path(__file__).parents[2] / "data"
        try:
            torchvision.datasets.MNIST(root, download=True)
        except Exception as error:
            raise FileNotFoundError(
                f"the data set 'mnist' is not in {', '.join(dict.fromkeys(tried))} and no download came ({error}):"
                " put its four idx files into MNIST/raw below the folder that SURVEY_DATA names"
            ) from error
        raw = root / "MNIST" / "raw"
    for file, expected in MNIST.items():
        found = hashlib.sha256((raw / file).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f"{raw / file} is damaged: its SHA-256 is {found[:12]}…, MNIST's is {expected[:12]}…")
    parts = []
    for train in (True, False):
        part = torchvision.datasets.MNIST(root, train=train)
        parts.append(Split(part.data[:, None].float() / 255, part.targets.long()))
    train, test = parts
    validation = Split(train.images[55_000:], train.labels[55_000:])
    return Dataset("mnist", "MNIST, the published files", train.first(55_000), validation, test, numbers(10))
