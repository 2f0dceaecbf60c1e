r"""Adaptive dropout (ba2013adaptive), the rival of layers whose active units are found by hashing.

Unit j is kept with a probability that grows with its output, :math:`p_j = \sigma(\alpha z_j + \beta)`, so all outputs
must be computed.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.hashing.shared.linear_layers import SparseLinear, Work, check_linear, check_seed, replaced, uniform


class AdaptiveLinear(SparseLinear):
    r"""Adaptive dropout: a unit with output z is kept with probability :math:`\sigma(\alpha z + \beta)`.

    In evaluation mode each output is multiplied by its probability. A ReLU should follow: then it does not matter that
    outputs are multiplied before the activation instead of after it.

    layer: linear layer whose weight and bias it takes over.
    alpha: finite, default 1. With 0 it is plain dropout that keeps a share of :math:`\sigma(\beta)`.
    beta: finite, default 0. The smaller it is, the fewer units are kept.
    seed: integer, 0 or more. Default 0.

    After a forward pass in training mode ``masks`` holds which units were kept, (..., outputs). The share of units is
    not fixed, and all outputs are computed.

    Raises ValueError for another kind of layer and numbers out of range.
    Source: ba2013adaptive. There the probabilities may also have learned parameters of their own.

    >>> layer = AdaptiveLinear(nn.Linear(784, 1000), beta=-3.0).train()
    >>> outputs = layer(torch.rand(3, 784))
    >>> layer.masks.shape, layer.masks.float().mean() < 0.1
    (torch.Size([3, 1000]), tensor(True))
    """

    draw: Tensor  # the seed, and the number of draws so far

    def __init__(self, layer: nn.Linear, *, alpha: float = 1.0, beta: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        check_linear(layer, "the layer")
        if not np.isfinite([alpha, beta]).all():
            raise ValueError(f"alpha and beta must be finite, not {alpha} and {beta}")
        check_seed(seed)
        self.outputs, self.inputs = layer.weight.shape
        self.weight, self.bias, self.alpha, self.beta = layer.weight, layer.bias, alpha, beta
        self.masks = torch.zeros(0, self.outputs, dtype=torch.bool)
        self.register_buffer("draw", torch.tensor([seed, 0]))
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        z = functional.linear(x, self.weight, self.bias)
        # method
        keep = torch.sigmoid(self.alpha * z + self.beta)
        if not self.training:
            return keep * z
        self.masks = uniform(self.draw, tuple(z.shape), advance=True).to(z.device) < keep
        return self.masks * z
        # end of method

    @property
    def work(self) -> Work:
        """The multiply-adds of one input vector: all outputs are computed, since the probabilities need them."""
        dense = self.inputs * self.outputs
        return Work(dense, 0, dense)


def drop_adaptively(
    model: nn.Module, layers: Sequence[str], *, alpha: float = 1.0, beta: float = 0.0, seed: int = 0
) -> nn.Module:
    """Return a copy of a network whose named linear layers have adaptive dropout.

    model: any network; it is left as it was.
    layers: names of linear layers, one or more; hidden layers, as in :func:`lib.hashing.sparse_layers.select`.
    alpha, beta: as for :class:`AdaptiveLinear`.
    seed: integer, 0 or more, of the first layer; each later layer takes the next number. Default 0.

    Raises ValueError for a layer that is not accepted, which it names, and as :class:`AdaptiveLinear` does.
    Source: ba2013adaptive.

    >>> from lib import models
    >>> drop_adaptively(models.lenet_300_100(), ["fc1", "fc2"], beta=-2.0).fc2.beta
    -2.0
    """

    def made(layer: nn.Linear, number: int) -> nn.Module:
        return AdaptiveLinear(layer, alpha=alpha, beta=beta, seed=seed + number)

    return replaced(model, layers, made)
