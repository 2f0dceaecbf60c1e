"""Toy networks and splits for tests: the same draw wherever they are made."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lib.datasets import Split


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
