"""Toy networks and splits for tests, the same draw wherever they are made, and what is asked of many networks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lib import storage, structure
from lib.datasets import Split, places
from lib.vision import torchvision
from lib.weights import layers

FETCH = places.fetch  # the real one, for tests that have taken the network away


def generator(seed: int = 0) -> torch.Generator:
    """A source of random numbers that no other draw moves."""
    return torch.Generator().manual_seed(seed)


def split(*shape: int, classes: int = 10, seed: int = 0, labels: str = "drawn", dtype=torch.float32) -> Split:
    """Samples of uniform noise, (n, ...) as ``shape`` says.

    labels: "drawn" at random, "in turn" (0, 1, ..., classes - 1, 0, ...), or "zero".
    """
    random = generator(seed)
    images = torch.rand(*shape, generator=random).to(dtype)
    made: dict[str, Callable[[], Tensor]] = {
        "drawn": lambda: torch.randint(0, classes, shape[:1], generator=random),
        "in turn": lambda: torch.arange(shape[0]) % classes,
        "zero": lambda: torch.zeros(shape[0], dtype=torch.long),
    }
    return Split(images, made[labels]())


def seeded(build, seed: int = 0):
    """What ``build`` makes from this seed, without moving the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def two_convolutions(seed: int = 0) -> nn.Sequential:
    """Images (n, 1, 8, 8) to 4 outputs, float64: convolutions of 6 and 5 filters without a dead one, a linear layer."""

    def build() -> nn.Sequential:
        layers = [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 4)]
        for layer in (layers[0], layers[2]):
            nn.init.uniform_(layer.bias, 0.2, 0.6)
        return nn.Sequential(*layers).double().eval()

    return seeded(build, seed)


def perceptron(seed: int = 0, dtype=torch.float64) -> nn.Sequential:
    """Six inputs, five ReLU units, three outputs."""
    return seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).to(dtype), seed)


class Sequences(nn.Module):
    """Images (n, 1, 28, 28) to 10 outputs: patches by a convolution, attention, a recurrent layer of both directions.

    Its weights are of all kinds: of layers that are called, of one that its owner reads, and packed ones.
    """

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 7, stride=7)
        self.places = nn.Parameter(torch.randn(1, 16, 8) / 10)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0, batch_first=True)
        self.recurrent = nn.LSTM(8, 6, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.recurrent(self.encoder(x))[0].mean(1))


def of_torchvision(name: str) -> tuple[nn.Module, Split, list[structure.Group]]:
    """A network of 4 outputs that we did not write, two images for it, and which of its filters belong together."""
    model = seeded(lambda: getattr(torchvision.models, name)(num_classes=4).eval())
    images = split(2, 3, 64, 64, labels="zero")
    return model, images, structure.groups(model, images.images[:1])


def state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether the two hold the same tensors, bit for bit (NaN equals NaN)."""
    return a.keys() == b.keys() and all(
        a[name].shape == b[name].shape and torch.equal(a[name].nan_to_num(), b[name].nan_to_num()) for name in a
    )


def equal(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks hold the same tensors, bit for bit."""
    return same_state(state(a), state(b))


def reads_back_alike(compress: Callable[[nn.Module, list[str]], nn.Module], folder: Path) -> bool:
    """Whether a network that we did not write, compressed and stored, answers bit for bit the same when loaded.

    compress: gets the network and the names of twelve layers: grouped, depthwise and 1 x 1 convolutions.
    """
    build = torchvision.models.shufflenet_v2_x0_5
    net = build(num_classes=10).eval()
    compress(net, [name for name, _ in layers(net)][:12])
    storage.save(net, folder / "net.slim")
    fresh = storage.load(folder / "net.slim", build(num_classes=10)).eval()
    images = torch.rand(1, 3, 64, 64)
    return torch.equal(fresh(images), net(images))


@contextmanager
def refused(model: nn.Module, message: str) -> Iterator[None]:
    """What is called inside raises a ValueError of this message and leaves the model as it was."""
    text, before = str(model), state(model)
    with pytest.raises(ValueError, match=message):
        yield
    assert str(model) == text and same_state(state(model), before)


def openml_answers(monkeypatch: pytest.MonkeyPatch, frame) -> list[int]:
    """Let OpenML have one table, ``frame``; the returned list takes the number of each set that is asked for."""
    asked: list[int] = []

    def fetch(data_id: int, **_) -> SimpleNamespace:
        asked.append(data_id)
        return SimpleNamespace(frame=frame)

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    return asked


def archive_comes_from(server, monkeypatch: pytest.MonkeyPatch, family, content: bytes) -> None:
    """Let a module of ``lib.datasets`` download its archive from the test's server, which sends ``content``."""
    server.contents = {"/zip": content}
    monkeypatch.setattr(places, "fetch", FETCH)
    monkeypatch.setattr(family, "URL", server.url("/zip"))
