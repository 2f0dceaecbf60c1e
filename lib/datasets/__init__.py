"""Data sets by name: training, validation and test tensors, and where they came from.

splits.py          what the families share: cutting samples into splits, taking a part, describing the source
places.py          where data sets are on this machine, and how missing ones are downloaded
archives.py        the files of a folder or a zip, by name
openml.py          tables from openml.org

embedded.py        scikit-learn's digits, plain and on photographs: always available
idx.py             MNIST and Fashion-MNIST
cifar10.py         CIFAR-10
image_folder.py    any folder or zip of images, one folder per class
camvid.py          CamVid: street scenes with a class for each pixel
spoken_digits.py   free spoken digits: recordings of one second
vowel.py           Deterding's vowels: tables of ten inputs
monks.py           MONK's problems: tables of seventeen inputs
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from lib.datasets import places

if TYPE_CHECKING:
    from torch import Tensor

NAMES = (*places.EMBEDDED, *places.PARTS)


@dataclass(frozen=True)
class Split:
    """Samples and their labels.

    images: float32, (n, channels, height, width) in [0, 1]; for a table (MONK's problems, vowels) its rows,
        (n, inputs); for recordings the waveforms, (n, 1, samples) in [-1, 1].
    labels: int64 class numbers, (n,), or (n, height, width) if each pixel has a class (CamVid).

    >>> split = load("monks-1-rule").train
    >>> len(split), len(split.first(10)), tuple(split.first(10).images.shape)
    (124, 10, (10, 17))
    """

    images: "Tensor"
    labels: "Tensor"

    def __len__(self) -> int:
        return len(self.labels)

    def check_not_empty(self, purpose: str) -> None:
        """Raise ValueError if there is no sample.

        purpose: what a sample is needed for, as the message says it: "to train on".
        """
        if not len(self):
            raise ValueError(f"the split is empty: at least one sample is needed {purpose}")

    def first(self, n: int) -> "Split":
        """Return the first ``n`` samples, or all of them if there are fewer."""
        return Split(self.images[:n], self.labels[:n])


@dataclass(frozen=True)
class Dataset:
    """Three splits that share no sample. Choices are made on ``validation``; ``test`` is only reported.

    MONK's problems are an exception, as published: their validation split is empty, and their test split has all
    possible rows, including those of training.

    name: by which :func:`load` knows the set, or the stem of an image folder's path.
    source: where the samples came from, in words for a page.
    train, validation, test: the splits.
    classes: name of each class number.
    """

    name: str
    source: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]


def load(name: str | Path, *, size: int | None = None, first: Sequence[int] | None = None) -> Dataset:
    """Load the data set called ``name``.

    name: one of ``NAMES``, or the path of an image folder or of a zip of one: ``<class>/<image>``, or the same below a
        folder for each split (train and test, training and val, ... in any case). Embedded, so always available:

        - "digits": scikit-learn's, resized to 28 x 28; "street-digits": the same on crops of two photographs, in color
        - "monks-1-rule", "monks-2-rule", "monks-3-rule": drawn from the rules of MONK's problems

        From files, which are downloaded if they are missing:

        - "mnist", "fashion-mnist": 55,000 / 5,000 / 10,000 gray images (1, 28, 28)
        - "cifar10": 45,000 / 5,000 / 10,000 color images (3, 32, 32), as JPEG files or as published
        - "camvid": 367 / 101 / 233 street scenes (3, 180, 240) with a class for each pixel; 11 is void
        - "spoken-digits": 2,400 / 300 / 300 recordings (1, 8000) of one second
        - "vowel": 396 / 132 / 462 rows (10,), by different speakers; "monks-1", "monks-2", "monks-3": rows (17,)
    size: height and width in pixels to which the images of a folder are resized; by default all must have the same
        size.
    first: the largest number of training, validation and test samples, default all of them. A smaller part is contained
        in a larger one, and it is the same in every run; ``source`` says so. MONK's problems and vowels are always
        whole.

    The files are looked for in the folder that ``SURVEY_DATA`` names, then in ``data/`` of the working folder and of
    the checkout; a download goes to the latter. No other set is ever substituted.

    Raises FileNotFoundError if a set is missing and cannot be downloaded, ValueError if it is damaged or an argument is
    not accepted.

    >>> digits = load("digits", first=(100, 20, 30))
    >>> tuple(digits.train.images.shape), len(digits.validation), len(digits.test)
    ((100, 1, 28, 28), 20, 30)
    """
    if first is not None:
        first = tuple(first)
        if len(first) != 3 or not all(_is_whole(n) for n in first):
            raise ValueError(
                f"first is {first}: accepted are three whole numbers from 1 up, training, validation, test"
            )
    if size is not None and not _is_whole(size):
        raise ValueError(f"size is {size!r}: accepted is a whole number of pixels from 1 up")
    # Imported here, since the families need torch, and asking where data sets are should not.
    from lib.datasets import camvid, cifar10, embedded, idx, image_folder, monks, spoken_digits, vowel
    from lib.datasets.splits import cut

    if size is not None and name in NAMES:
        raise ValueError(f"size is {size}, but {name} has a size of its own: omit size")
    if first is not None and (name == "vowel" or str(name).startswith("monks-")) and name in NAMES:
        raise ValueError(f"first is {first}, but {name} is used whole: omit first")
    with places.readable():
        match name:
            case "digits":
                return cut(embedded.digits(), first)
            case "street-digits":
                return cut(embedded.street_digits(), first)
            case "mnist" | "fashion-mnist":
                return idx.load(name, first)
            case "cifar10":
                return cifar10.load(first)
            case "camvid":
                return camvid.load(first)
            case "spoken-digits":
                return spoken_digits.load(first)
            case "vowel":
                return vowel.load()
            case "monks-1" | "monks-2" | "monks-3":
                return monks.published(name)
            case "monks-1-rule" | "monks-2-rule" | "monks-3-rule":
                return monks.by_rule(name)
        if not (found := places.files(str(name))):
            raise FileNotFoundError(
                f"no data set is called {str(name)!r}: accepted are {', '.join(NAMES)} and the path of an image folder"
                " or zip"
            )
        return image_folder.load(found[0], size, first)


def _is_whole(n: object) -> bool:
    return isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 1
