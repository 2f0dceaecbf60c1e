"""GoogLeNet's two auxiliary heads, and training with them."""

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib import training
from lib.architectures.shared.convolutions import activated, draw_weights
from lib.architectures.shared.heads import WithHeads
from lib.architectures.shared.network import Network
from lib.arguments import check_sizes
from lib.datasets import Split
from lib.seeding import seeded
from lib.training import FitOptions

HEADS = ("inception4a", "inception4d")  # the parts of GoogLeNet whose maps its auxiliary heads read


class Head(nn.Module):
    """An auxiliary classifier on the maps of an Inception module (szegedy2015going, section 5).

    An average pool of 5 x 5 with stride 3 turns maps of 14 x 14 into 4 x 4 (for other sizes, a second one gives 4 x 4).
    Then come 1 x 1 filters, a hidden layer, dropout of 70 %, and the classes.

    inputs: channels of the maps, 1 or more.
    classes: number of outputs, 2 or more.
    filters: 1 x 1 filters, default 128.
    hidden: units of the hidden layer, default 1024.
    batch_norm: whether batch norm follows the convolution in place of a bias, default False.

    Input (n, inputs, height, width), output (n, classes) logits.

    >>> Head(512, 1000)(torch.zeros(1, 512, 14, 14)).shape
    torch.Size([1, 1000])
    """

    def __init__(
        self, inputs: int, classes: int, *, filters: int = 128, hidden: int = 1024, batch_norm: bool = False
    ) -> None:
        check_sizes({"inputs": inputs, "classes": classes, "filters": filters, "hidden": hidden})
        super().__init__()
        self.conv = activated(inputs, filters, 1, batch_norm=batch_norm)
        self.fc1, self.fc2 = nn.Linear(16 * filters, hidden), nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, maps: Tensor) -> Tensor:
        if min(maps.shape[2:]) >= 5:
            maps = functional.avg_pool2d(maps, 5, 3)
        maps = self.conv(functional.adaptive_avg_pool2d(maps, 4))
        return self.fc2(self.dropout(torch.relu(self.fc1(maps.flatten(1)))))


def with_heads(
    network: Network,
    *,
    seed: int = 0,
    weight: float = 0.3,
    filters: int = 128,
    hidden: int = 1024,
    loss: str | training.Loss = "cross_entropy",
) -> WithHeads:
    """Put the two auxiliary heads on a GoogLeNet, to train them together (szegedy2015going, section 5).

    network: what :func:`lib.architectures.inception.googlenet` builds; it is trained in place, and keeps no head.
    seed: of the initial weights of the heads, default 0.
    weight: of the loss of each head, 0 or more, default 0.3.
    filters, hidden: of each head, as in :class:`Head`, default 128 and 1024.
    loss: "cross_entropy" (default) or another one of ``training.fit``.

    The initial weights of their convolutions are He's (normal), those of their linear layers PyTorch's.
    Raises ValueError for a network without the modules that the heads read, and for numbers that are not accepted.

    >>> from lib import measure
    >>> from lib.architectures.inception import googlenet
    >>> with torch.device("meta"):
    ...     model = with_heads(googlenet(large=3, batch_norm=True))
    >>> measure.parameters(model.network), measure.parameters(model.heads)
    (6624904, 6379984)
    """
    layers = dict(network.named_children())
    read = {name: maps for name in HEADS if isinstance(maps := getattr(layers.get(name), "outputs", None), int)}
    last = layers.get("fc")
    if len(read) < len(HEADS) or not isinstance(last, nn.Linear):
        raise ValueError(f"the heads need a network with {', '.join(HEADS)} and fc, as googlenet builds it")
    normalized = any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    sizes = {"filters": filters, "hidden": hidden}
    with seeded(seed):
        heads = {n: Head(maps, last.out_features, batch_norm=normalized, **sizes) for n, maps in read.items()}
        model = WithHeads(network, heads, weight=weight, loss=loss)
        model.heads.to(last.weight)
        draw_weights(model.heads, "normal")
    return model


def fit(
    network: Network,
    split: Split,
    *,
    epochs: int,
    seed: int,
    weight: float = 0.3,
    filters: int = 128,
    hidden: int = 1024,
    **options: Unpack[FitOptions],
) -> list[float]:
    """Train a GoogLeNet with its two auxiliary heads, which are thrown away afterwards (szegedy2015going, section 5).

    network: what :func:`lib.architectures.inception.googlenet` builds; trained in place, and in evaluation mode
        afterwards.
    split: the samples to train on; at least one.
    epochs: passes over the split, 0 or more.
    seed: of the order of the samples, of dropout, and of the initial weights of the heads.
    weight: of the loss of each head, 0 or more, default 0.3.
    filters, hidden: of each head, as in :class:`Head`, default 128 and 1024.
    options: how to train, as in :class:`lib.training.FitOptions`.

    Returns the mean loss of each epoch, with that of the heads.
    Raises TypeError for other options, and ValueError for what :func:`with_heads` or ``training.fit`` refuses.

    >>> from collections import OrderedDict
    >>> from lib.architectures.inception import Inception, Sizes
    >>> twos = Sizes(2, 2, 2, 2, 2, 2)
    >>> modules = {"inception4a": Inception(3, twos), "inception4d": Inception(8, twos)}
    >>> rest = {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(8, 2)}
    >>> small = Network(OrderedDict(modules | rest), channels=3)
    >>> split = Split(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))
    >>> len(fit(small, split, epochs=2, seed=0, filters=4, hidden=8))
    2
    """
    training.check_options(options)
    loss = options.get("loss", "cross_entropy")
    model = with_heads(network, seed=seed, weight=weight, filters=filters, hidden=hidden, loss=loss)
    with seeded(seed):  # dropout
        return training.fit(model, split, epochs=epochs, seed=seed, teaching=model, **options)
