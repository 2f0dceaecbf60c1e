r"""Deep Compression: prune, let the survivors share trained centroids, code what is left by Huffman.

The survivors of pruning are clustered layer by layer with Lloyd's k-means from one of three starts, and the centroids
are trained on: with :math:`W_{ij} = C_{I_{ij}}` the gradient of a centroid is the sum over its cluster,

.. math:: \frac{\partial L}{\partial C_k} = \sum_{ij} \frac{\partial L}{\partial W_{ij}}\, \mathbb 1(I_{ij} = k) .

Places of survivors are kept as gaps of g bits, with fillers of value zero where a gap is too long; codes and gaps are
two streams per layer, each with its own Huffman code (han2016deep, sections 2 to 4).
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lib.coding import gaps
from lib.quantization.optimal_kmeans import Codebook, lloyd, optimal
from lib.quantization.scalar_kmeans import SharedWeight
from lib.quantization.shared.names import bits_of, check_names
from lib.weights import Encoding, compress

STARTS = ("linear", "density", "random", "optimal")


class PrunedSharedWeight(SharedWeight):
    """centroids[codes] at the places of the survivors, zero elsewhere. Code 0 in the file is a filler's zero.

    gap_bits: width g of the gap fields; None takes the width that costs least.
    """

    def __init__(self, cluster, gap_bits: int | None = None):
        super().__init__(cluster)
        if gap_bits is not None and not 1 <= gap_bits <= 16:
            raise ValueError(f"gap_bits must be in 1..16, not {gap_bits}")
        self.gap_bits = gap_bits

    def right_inverse(self, weight: Tensor) -> Tensor:
        flat = weight.detach().flatten()
        self.register_buffer("places", flat.nonzero().flatten())
        if len(self.places) == 0:
            self.register_buffer("codes", self.places.clone())
            centroids = flat.new_zeros(0)
        else:
            centroids = super().right_inverse(flat[self.places])
        self.shape = weight.shape
        return centroids

    def forward(self, centroids: Tensor) -> Tensor:
        dense = centroids.new_zeros(self.shape.numel())
        return dense.index_copy(0, self.places, centroids.index_select(0, self.codes)).reshape(self.shape)

    def encode(self, centroids: Tensor) -> Encoding:
        places = self.places.numpy()
        code_bits = max(1.0, np.log2(max(1, len(centroids))))
        bits = self.gap_bits or gaps.best_bits(places, filler_bits=code_bits)
        fields, kept = gaps.encode(places, bits)
        codes = torch.zeros(len(fields), dtype=torch.int64)
        codes[torch.from_numpy(kept)] = self.codes + 1
        return Encoding(symbols={"code": codes, "gap": torch.from_numpy(fields)}, tables={"centroid": centroids})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        values = torch.cat([torch.zeros(1), encoding.tables["centroid"]])
        return gaps.scatter(encoding.symbols["gap"], values[encoding.symbols["code"]], shape)


def start(values: np.ndarray, k: int, how: str, seed: int = 0) -> np.ndarray:
    """Initial centroids (han2016deep, section 3.2): evenly spaced in value ("linear"), in rank ("density"), or drawn
    from the values without replacement ("random", Forgy)."""
    if how == "linear":
        return np.linspace(values.min(), values.max(), k)
    if how == "density":  # c_j = F^-1((j - 1/2) / k)
        return np.quantile(values, (np.arange(k) + 0.5) / k)
    if how == "random":
        return np.sort(np.random.default_rng(seed).choice(values, k, replace=False))
    raise ValueError(f"start must be one of {', '.join(STARTS)}, not {how!r}")


def cluster(values: np.ndarray, k: int, how: str, seed: int = 0) -> Codebook:
    """k clusters of the values by Lloyd's iteration from a :func:`start`, or the optimal ones."""
    k = min(k, len(values))
    return optimal(values, k) if how == "optimal" else lloyd(values, start(values, k, how, seed))


def share_survivors(
    model: nn.Module,
    *,
    bits: int | Mapping[str, int],
    how: str = "linear",
    gap_bits: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """Let the non-zero weights of each layer share 2^bits - 1 trainable values; zero stays zero. In place.

    One of the 2^bits codes is the zero of fillers. ``how`` is the start of the clustering. Then train the model as
    usual, at a learning rate of about a hundredth: a centroid's gradient is a sum over its cluster.
    Raises ValueError on an unknown start or layer, or bits outside 1..16.
    """
    if how not in STARTS:
        raise ValueError(f"how must be one of {', '.join(STARTS)}, not {how!r}")

    check_names(model, bits)

    def form(name: str, layer: nn.Module) -> PrunedSharedWeight | None:
        chosen = bits_of(bits, name)
        if chosen is None:
            return None
        return PrunedSharedWeight(lambda values: cluster(values, 2**chosen - 1, how, seed), gap_bits)

    return compress(model, form)


def set_gap_bits(model: nn.Module, bits: int | None) -> nn.Module:
    """Store the places of all shared survivors as gaps of so many bits; None takes the cheapest width. In place."""
    for module in model.modules():
        if isinstance(module, PrunedSharedWeight):
            module.gap_bits = bits
    return model
