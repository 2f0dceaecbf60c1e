"""A name -> train, validation and test tensors, and where they came from."""

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
    """Samples, float32, and their class numbers, int64.

    images: (n, channels, height, width) in [0, 1]; of a table (MONK's problems, vowels) its rows (n, inputs); of sounds
        the waveforms (n, 1, samples) in [-1, 1].
    labels: (n,), or (n, height, width) where each pixel has a class (CamVid).
    """

    images: "Tensor"
    labels: "Tensor"

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int) -> "Split":
        """The first n samples (all of them where there are fewer)."""
        return Split(self.images[:n], self.labels[:n])


@dataclass(frozen=True)
class Dataset:
    """Three splits that share no sample. Choices are made on ``validation``; ``test`` is only reported.

    MONK's problems are published otherwise: no validation (that split is empty), and a test set of all possible rows.
    """

    name: str
    source: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]


def load(name: str | Path, *, size: int | None = None, first: Sequence[int] | None = None) -> Dataset:
    """The data set called ``name``.

    name: one of ``NAMES``, or the path of an image folder or of a zip of one: ``<class>/<image>``, or the same below a
        folder for each split (train and test, training and val, ... in any case). Embedded, so always there:

        - "digits": scikit-learn's, resized to 28 x 28; "street-digits": the same on crops of two photographs, in color
        - "monks-1-rule", "monks-2-rule", "monks-3-rule": drawn from the rules of MONK's problems

        From files, which are downloaded where they are missing:

        - "mnist", "fashion-mnist": 55,000 / 5,000 / 10,000 grey images (1, 28, 28)
        - "cifar10": 45,000 / 5,000 / 10,000 color images (3, 32, 32), as JPEG files or as published
        - "camvid": 367 / 101 / 233 street scenes (3, 180, 240) with a class for each pixel; 11 is void
        - "spoken-digits": 2,400 / 300 / 300 recordings (1, 8000) of one second
        - "vowel": 396 / 132 / 462 rows (10,), by different speakers; "monks-1", "monks-2", "monks-3": rows (17,)
    size: height and width in pixels to which the images of a folder are resized; by default they must be of one size.
    first: at most so many (training, validation, test) samples: a fixed part, the same in every run, of which a
        smaller one holds no other samples; ``source`` says so. MONK's problems and vowels are not cut.

    Looks in the folder that ``SURVEY_DATA`` names, then in ``data/`` of the working folder and of the checkout, then
    downloads to the latter. Never a substitute: raises FileNotFoundError where a set is not to be had, ValueError where
    it is damaged or an argument is not accepted.
    """
    if first is not None:
        first = tuple(first)
        if len(first) != 3 or not all(_is_whole(n) for n in first):
            raise ValueError(
                f"first is {first}: accepted are three whole numbers from 1 up, training, validation, test"
            )
    if size is not None and not _is_whole(size):
        raise ValueError(f"size is {size!r}: accepted is a whole number of pixels from 1 up")
    # Imported here, since the families need torch: who only asks where data lie does not.
    from lib.datasets import camvid, cifar10, embedded, idx, image_folder, monks, spoken_digits, vowel
    from lib.datasets.splits import cut

    if size is not None and name in NAMES:
        raise ValueError(f"size is {size}, but {name} has a size of its own: leave size away")
    if first is not None and (name == "vowel" or str(name).startswith("monks-")) and name in NAMES:
        raise ValueError(f"first is {first}, but {name} is used whole: leave first away")
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
    return isinstance(n, Integral) and not isinstance(n, bool) and n >= 1
