"""Networks, splits and checks that the tests of several binary methods use."""

import given
import torch
from torch import nn

from lib.binarization.gxnor_dst import ternarize
from lib.binarization.shared import inference
from lib.binarization.shared.signs import Binarized
from lib.datasets import Split


def snapshot(model):
    """The text of a model and all it holds, to ask later whether it is :func:`unchanged`."""
    return str(model), given.state(model)


def unchanged(model, before):
    text, state = before
    return str(model) == text and given.same_state(given.state(model), state)


def two_halves(samples=64, size=6):
    """Two classes that a linear layer can tell apart: the left or the right half of the image is bright."""
    labels = torch.arange(samples) % 2
    images = torch.rand(samples, 1, size, size, generator=given.generator()) / 2
    images[labels == 1, :, :, size // 2 :] += 0.5
    images[labels == 0, :, :, : size // 2] += 0.5
    return Split(images, labels)


def ternary_network(**settings):
    """Images (n, 1, 6, 6) to 2 outputs."""

    def build():
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Flatten()
        )
        return ternarize(net.extend([nn.Linear(16, 7), nn.ReLU(), nn.Linear(7, 2)]), classes=2, **settings)

    return given.seeded(build)


def in_space(weight, space=1):
    """Whether all weights are states of Z_N, N = ``space``."""
    places = (weight.detach().double() + 1) * 2 ** (space - 1)
    return bool(((places == places.round()) & (places >= 0) & (places <= 2**space)).all())


def ternary(*shape, seed=0):
    """Values drawn evenly from -1, 0 and 1."""
    return torch.randint(-1, 2, shape, generator=given.generator(seed)).float()


@torch.no_grad()
def alive(model, images):
    """Whether every layer that reads signs sees values below and above 0; batch norms see the images first."""
    seen = {}

    def note(name, values):
        seen[name] = bool(values.min() < 0 < values.max())

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    model.eval()
    for norm in norms:
        norm.train().momentum = 1.0
    model(images)
    handles = [
        module.activation.register_forward_hook(lambda _, __, values, name=name: note(name, values))
        for name, module in model.eval().named_modules()
        if isinstance(module, Binarized)
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return bool(seen) and all(seen.values())


@torch.no_grad()
def converted_alike(model, images, exact=True):
    """Whether the network on bits gives the very same answers; of sums of several bases, nearly the same."""
    answers, found = model.eval()(images), inference.convert(model)(images)
    if exact:
        return torch.equal(found, answers) and answers.unique().numel() > 1
    return torch.allclose(found, answers, rtol=1e-3, atol=1e-3 * answers.abs().max().item())
