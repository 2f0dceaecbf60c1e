"""A layer of HashedNets against a dense one: the time of a forward pass, and of a training step.

A hashed layer multiplies as often as the dense one and also looks up its weights, so its time ratio is above 1: highest
for one image, lowest for many, which share one look-up. "converted" is the layer for inference, which writes no matrix
for few images. The third layer does what the public ports do: it indexes the values and multiplies by signs. All have
the same size and run in one process on one thread. Each pair of layers also runs without the others, whose matrices
push the dense one out of the cache: that ratio is the stricter one. Run with ``make bench``.
"""

import copy

import torch
from torch import Tensor, nn

from lib import measure
from lib.hashing import hashed_nets
from lib.hashing.shared import hashed_layers, lookup

INPUTS, OUTPUTS, FRACTION, IMAGES, RUNS = 784, 1000, 1 / 64, (1, 4, 16, 100, 1000), 30

COLUMNS = ("dense", "ours", "converted", "indexed")


class Indexed(nn.Module):
    """The same layer in two lines of torch: a long index and a sign for each weight."""

    def __init__(self, values: Tensor, codes: Tensor, bias: Tensor):
        super().__init__()
        self.values, self.bias = nn.Parameter(values.clone()), nn.Parameter(bias.clone())
        self.register_buffer("index", (codes // 2).long().reshape(OUTPUTS, INPUTS))
        self.register_buffer("signs", (1.0 - 2 * (codes % 2)).reshape(OUTPUTS, INPUTS))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.values[self.index] * self.signs, self.bias)


def layers() -> dict[str, nn.Module]:
    """The layer in four versions; the last three compute the same."""
    dense = nn.Linear(INPUTS, OUTPUTS)
    hashed = hashed_nets.compress(copy.deepcopy(dense), fraction=FRACTION)
    chain = hashed.parametrizations.weight
    indexed = Indexed(chain.original.data, chain[0].codes, hashed.bias.data)
    return {"dense": dense, "ours": hashed, "converted": hashed_layers.convert(hashed), "indexed": indexed}


def step(layer: nn.Module, images: Tensor) -> None:
    """A forward and a backward pass."""
    with torch.enable_grad():
        layer(images).sum().backward()


def race() -> None:
    """Print the median milliseconds of each layer, and the ratio to the dense one, for each number of images."""
    named = layers()
    print(f"{INPUTS} x {OUTPUTS} weights, {named['ours'].parametrizations.weight.original.numel():,} values")
    print(f"{'images':>8}{'':14}" + "".join(f"{name:>22}" for name in COLUMNS))
    for count in IMAGES:
        images = torch.randn(count, INPUTS)
        for name in ("converted", "indexed"):
            torch.testing.assert_close(named["ours"](images), named[name](images))
        forward = {name: lambda layer=layer, x=images: layer(x) for name, layer in named.items()}
        show(f"{count:8} {'forward':13}", forward)
        for name in ("ours", "converted", "indexed"):
            show(f"{'':8} {name:13}", {key: forward[key] for key in ("dense", name)})
        trained = {name: layer for name, layer in named.items() if name != "converted"}
        calls = {name: lambda layer=layer, x=images: step(layer, x) for name, layer in trained.items()}
        show(f"{count:8} {'with gradient':13}", calls)


def passes() -> None:
    """Print the median milliseconds of the two compiled passes over the weights."""
    form, values = named_form()
    gradient = torch.randn(len(form.codes))
    calls = {
        "look-up": lambda: lookup.expanded(values, form.codes),
        "its gradient": lambda: lookup.collected(gradient, form.codes, len(values)),
    }
    for name, time in measure.latency_ms(calls, runs=RUNS).items():
        print(f"{name:14}{time.median:8.3f} ms, {1e6 * time.median / len(form.codes):.2f} ns for each weight")


def named_form() -> tuple[hashed_nets.HashedWeight, Tensor]:
    """The form of the hashed layer, and its values."""
    chain = layers()["ours"].parametrizations.weight
    return chain[0], chain.original.detach()


def show(title: str, calls: dict) -> None:
    times = measure.latency_ms(calls, runs=RUNS)
    row = {name: f"{time.median:11.3f} ms{time.median / times['dense'].median:7.2f}x" for name, time in times.items()}
    print(title + "".join(f"{row.get(name, ''):>22}" for name in COLUMNS))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    race()
    passes()
