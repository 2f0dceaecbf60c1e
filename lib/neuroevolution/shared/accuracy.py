"""The fitness of a candidate network: gradient descent trains it for a few epochs, then it is validated."""

import threading
from dataclasses import dataclass

import torch

from lib import training
from lib.datasets import Split
from lib.neuroevolution.shared.assembly import Candidate
from lib.seeding import seeded

ONE_AT_A_TIME = threading.Lock()  # dropout draws from torch's global generator, which threads share


@dataclass(frozen=True)
class Accuracy:
    """The fitness of a candidate: its accuracy on validation images after a few epochs of training, in percent.

    The seed of its weights, of the order of the samples and of dropout follows from the network, so the same network
    has the same fitness in every process. It is trained on one thread. If training diverges, the fitness is 0.

    train, validation: images (n, channels, height, width), at least one.
    classes: number of outputs, 1 or more.
    epochs: of training, 0 or more, default 2.
    batch_size: samples per step, 1 or more, default 32.
    seed: integer, default 0.

    Raises ValueError for other splits and numbers.
    """

    train: Split
    validation: Split
    classes: int
    epochs: int = 2
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        self.train.check_not_empty("to train on")
        self.validation.check_not_empty("to evaluate on")
        for split in (self.train, self.validation):
            if split.images.dim() != 4 or split.labels.dim() != 1:
                shapes = tuple(split.images.shape), tuple(split.labels.shape)
                raise ValueError(f"images must be (n, channels, height, width) and labels (n,), not {shapes}")
        kinds = [(tuple(split.images.shape[1:]), split.images.dtype) for split in (self.train, self.validation)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"the images of both splits must be of one size and type, not {kinds[0]} and {kinds[1]}")
        for name, least in {"classes": 1, "epochs": 0, "batch_size": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, not {getattr(self, name)}")
        labels = torch.cat([self.train.labels, self.validation.labels])
        if labels.min() < 0 or labels.max() >= self.classes:
            raise ValueError(f"labels must be in 0..{self.classes - 1}, not {labels.min()}..{labels.max()}")
        if not all(torch.isfinite(split.images).all() for split in (self.train, self.validation)):
            raise ValueError("the images hold NaN or infinity: finite ones are needed")

    def __call__(self, candidate: Candidate) -> float:
        channels, height, width = self.train.images.shape[1:]
        seed, threads = candidate.seed(self.seed), torch.get_num_threads()
        with ONE_AT_A_TIME, seeded(seed):
            torch.set_num_threads(1)
            try:
                network = candidate.network((channels, height, width), classes=self.classes, seed=seed)
                network.to(self.train.images)
                training.fit(
                    network,
                    self.train,
                    epochs=self.epochs,
                    seed=seed,
                    batch_size=self.batch_size,
                    learning_rate=candidate.training.learning_rate,
                    momentum=candidate.training.momentum,
                )
                return 100 - training.error_pct(network, self.validation)
            except ValueError as error:
                if "diverged" not in str(error):
                    raise
                return 0.0
            finally:
                torch.set_num_threads(threads)
