"""A name -> train, validation and test tensors, and where they came from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib.datasets import places

if TYPE_CHECKING:
    from torch import Tensor

MONKS = ("monks-1", "monks-2", "monks-3")
MONKS_BY_RULE = tuple(f"{name}-rule" for name in MONKS)
NAMES = ("digits", "street-digits", "mnist", "cifar10", *MONKS, *MONKS_BY_RULE)


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width), float32 in [0, 1], and their class numbers (n,), int64.

    Of a table (MONK's problems) ``images`` are its rows, (n, inputs).
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


def load(name: str, *, size: int | None = None, first: Sequence[int] | None = None) -> Dataset:
    """The data set called ``name``.

    name: one of ``NAMES``, or the path of an ImageFolder tree (or a zip of one): ``<root>/<class>/<image>``, or the
        same below ``train``, ``test`` and, if there is one, ``validation``. Embedded, so always there:

        - "digits": scikit-learn's, resized to 28 x 28; "street-digits": the same on crops of two photographs, in colour
        - "monks-1-rule", "monks-2-rule", "monks-3-rule": drawn from the rules of MONK's problems

        and from files: "mnist", "cifar10" (JPEG or published), "monks-1", "monks-2", "monks-3".
    size: height and width in pixels to which a tree's images are resized; by default they must all be of one size.
    first: at most so many (training, validation, test) images: a fixed random part, the same in every run, of which a
        smaller one holds no other images; ``source`` says so. MONK's problems are not cut.

    Looks in ``$SURVEY_DATA``, then in ``data/``, then downloads through torchvision. Never a substitute: raises
    FileNotFoundError where a set is not to be had, ValueError where it is damaged.
    """
    if first is not None:
        first = tuple(first)
        if len(first) != 3 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in first):
            raise ValueError(
                f"first is {first}: accepted are three whole numbers from 1 up, training, validation, test"
            )
    # Imported here, since the families need torch: who only asks where data lie does not.
    from lib.datasets import cifar10, embedded, idx, image_folder, monks
    from lib.datasets.splits import cut

    if name in MONKS or name in MONKS_BY_RULE:
        if first is not None:
            raise ValueError(f"first is {first}, but {name} is used whole: leave first away")
        return monks.published(name) if name in MONKS else monks.by_rule(name)
    if name == "cifar10":
        return cifar10.cifar10(first)
    whole = {"digits": embedded.digits, "street-digits": embedded.street_digits, "mnist": idx.mnist}
    if name in whole:
        return cut(whole[name](), first)
    path = next((p for p in [Path(name), *(root / name for root in places.roots())] if name and p.exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"no data set is called {name!r}: accepted are {', '.join(NAMES)} and the path of an image folder or zip"
        )
    return image_folder.load(path, size, first)
