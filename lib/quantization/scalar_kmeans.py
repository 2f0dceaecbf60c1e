r"""Scalar k-means: the weights of a layer share k values.

Each weight is replaced by the nearest of k centroids, chosen for the least squared error,

.. math:: \min_{C, a} \sum_{ij} \big(W_{ij} - c_{a(ij)}\big)^2, \qquad k = 2^q ,

and is stored as the index of its centroid, in q bits. For n weights the compression rate is
:math:`32 n / (q n + 32 k)`, about :math:`32 / q` (gong2014vq, section 3.2). The published method clusters each layer
once, without training afterwards; training the result trains the k centroids.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lib.quantization import optimal_kmeans
from lib.quantization.optimal_kmeans import Codebook
from lib.quantization.shared.names import bits_of, check_names
from lib.weights import CompressedWeight, Encoding, compress


class SharedWeight(CompressedWeight):
    """centroids[codes]. The parameter is the centroids.

    cluster: function from a layer's weights, flattened to (n,) float64, to their codebook.
    """

    codes: Tensor
    shape: torch.Size

    def __init__(self, cluster: Callable[[np.ndarray], Codebook]) -> None:
        super().__init__()
        self.cluster = cluster

    # method
    def right_inverse(self, weight: Tensor) -> Tensor:
        book = self.cluster(weight.detach().double().flatten().cpu().numpy())
        self.register_buffer("codes", torch.from_numpy(book.codes).to(weight.device))
        self.shape = weight.shape
        return torch.from_numpy(book.centroids).to(weight)

    def forward(self, centroids: Tensor) -> Tensor:
        return centroids.index_select(0, self.codes).reshape(self.shape)

    # end of method

    def encode(self, centroids: Tensor) -> Encoding:
        return Encoding(symbols={"code": self.codes}, tables={"centroid": centroids})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        return encoding.tables["centroid"].index_select(0, encoding.symbols["code"]).reshape(shape)

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {"code": shape.numel()}, {"centroid": shape.numel()}


def share(model: nn.Module, *, bits: int | Mapping[str, int]) -> nn.Module:
    """Let the weights of each layer share 2^bits values, those with the least squared error. In place.

    model: any network.
    bits: of each code, 1 to 16, for all layers or by layer name; layers not named are left alone. A layer with fewer
        weights than 2^bits gets one value per weight.

    Returns the model. Raises ValueError for bits outside 1..16, an unknown layer, or a model without a layer that has a
    weight (gong2014vq, section 3.2).

    >>> from lib import models
    >>> model = share(models.lenet_300_100(), bits={"fc2": 3, "fc3": 2})
    >>> len(model.fc2.weight.unique()), len(model.fc3.weight.unique())
    (8, 4)
    """
    check_names(model, bits)
    return compress(model, lambda name, layer: _form(bits_of(bits, name)))


def _form(bits: int | None) -> SharedWeight | None:
    if bits is None:
        return None
    return SharedWeight(lambda values: optimal_kmeans.optimal(values, min(2**bits, len(values))))


def compression_rate(weights: int, bits: int) -> float:
    """Compute how many times smaller a layer gets: 32 n / (q n + 32 2^q) (gong2014vq; han2016deep, equation 1).

    weights: n, the weights of the layer.
    bits: q, of a code; the codebook has 2^q floats.

    >>> compression_rate(1_000_000, 4)  # nearly 32 / 4
    7.998976131055225
    """
    return 32 * weights / (bits * weights + 32 * 2**bits)
