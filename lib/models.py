"""The baseline networks that every chapter compresses. Weights depend on the seed alone."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def lenet_300_100(seed: int = 0, *, inputs: int = 784, classes: int = 10) -> nn.Sequential:
    """LeNet-300-100: two hidden layers, 266,610 parameters for 28 x 28 inputs (lecun1998gradient; han2016deep).

    Input (n, ...) with ``inputs`` values per sample, output (n, classes) logits.
    """
    with _seeded(seed):
        return nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                fc1=nn.Linear(inputs, 300),
                relu1=nn.ReLU(),
                fc2=nn.Linear(300, 100),
                relu2=nn.ReLU(),
                fc3=nn.Linear(100, classes),
            )
        )


def lenet5(seed: int = 0, *, channels: int = 1, classes: int = 10) -> nn.Sequential:
    """LeNet-5 as Caffe ships it: 431,080 parameters for one channel (lecun1998gradient; han2016deep, Table 3).

    Input (n, channels, 28, 28), output (n, classes) logits.
    """
    with _seeded(seed):
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 20, 5),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(20, 50, 5),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(800, 500),
                relu1=nn.ReLU(),
                fc2=nn.Linear(500, classes),
            )
        )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from their own seed and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
