r"""Deep Compression: prune, let the surviving weights share trained centroids, and Huffman-code the result.

The survivors of pruning are clustered layer by layer with Lloyd's k-means from one of three starts. Then the centroids
are trained: with :math:`W_{ij} = C_{I_{ij}}` the gradient of a centroid is the sum over its cluster,

.. math:: \frac{\partial L}{\partial C_k} = \sum_{ij} \frac{\partial L}{\partial W_{ij}}\, \mathbb 1(I_{ij} = k) .

The positions of survivors are stored as gaps in g bits; a gap that is too long is split by fillers of value zero. Codes
and gaps are two streams per layer, each with its own Huffman code (han2016deep, sections 2 to 4).
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lib.arguments import check_one_of
from lib.coding import gaps
from lib.quantization.optimal_kmeans import Codebook, lloyd, optimal
from lib.quantization.scalar_kmeans import SharedWeight
from lib.quantization.shared.names import bits_of, check_names
from lib.weights import Encoding, compress

LLOYD_STARTS = ("linear", "density", "random")
STARTS = (*LLOYD_STARTS, "optimal")


class PrunedSharedWeight(SharedWeight):
    """centroids[codes] at the places of the survivors, zero elsewhere. Code 0 in the file is a filler's zero.

    cluster: function from the survivors' values, (n,), to their codebook.
    gap_bits: width g of the gap fields, 1 to 16; None takes the cheapest width.
    """

    places: Tensor

    def __init__(self, cluster: Callable[[np.ndarray], Codebook], gap_bits: int | None = None) -> None:
        super().__init__(cluster)
        check_gap_bits(gap_bits)
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

    # method
    def forward(self, centroids: Tensor) -> Tensor:
        dense = centroids.new_zeros(self.shape.numel())
        return dense.index_copy(0, self.places, centroids.index_select(0, self.codes)).reshape(self.shape)

    # end of method

    def encode(self, centroids: Tensor) -> Encoding:
        places = self.places.cpu().numpy()
        code_bits = max(1.0, np.log2(max(1, len(centroids))))
        bits = self.gap_bits or gaps.best_bits(places, filler_bits=code_bits)
        fields, kept = gaps.encode(places, bits)
        codes = torch.zeros(len(fields), dtype=torch.int64)
        codes[torch.from_numpy(kept)] = self.codes.cpu() + 1
        return Encoding(symbols={"code": codes, "gap": torch.from_numpy(fields)}, tables={"centroid": centroids})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        centroids = encoding.tables["centroid"]
        values = torch.cat([centroids.new_zeros(1), centroids])
        return gaps.scatter(encoding.symbols["gap"], values.index_select(0, encoding.symbols["code"]), shape)

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {"code": shape.numel(), "gap": shape.numel()}, {"centroid": shape.numel()}


def starting_points(values: np.ndarray, k: int, *, start: str, seed: int = 0) -> np.ndarray:
    """Choose the centroids from which Lloyd's iteration begins (han2016deep, section 3.2).

    values: (n,) finite numbers.
    k: number of centroids, 1 to n.
    start: "linear" spaces them evenly from the smallest value to the largest, "density" evenly in rank, and "random"
        draws them from the values without replacement (Forgy's start).
    seed: of the draw.

    Returns (k,) centroids in ascending order. Raises ValueError for an unknown start.

    >>> starting_points(np.array([0.0, 1.0, 2.0, 10.0]), 3, start="linear").tolist()
    [0.0, 5.0, 10.0]
    """
    check_one_of("start", start, LLOYD_STARTS)
    if start == "linear":
        return np.linspace(values.min(), values.max(), k)
    if start == "density":  # c_j = F^-1((j - 1/2) / k)
        return np.quantile(values, (np.arange(k) + 0.5) / k)
    return np.sort(np.random.default_rng(seed).choice(values, k, replace=False))


def cluster(values: np.ndarray, k: int, *, start: str, seed: int = 0, weights: np.ndarray | None = None) -> Codebook:
    """Cluster numbers by Lloyd's iteration, or optimally.

    values: (n,) finite numbers.
    k: number of clusters, 1 or more; n if there are fewer values.
    start: "linear", "density" or "random" for Lloyd's iteration from :func:`starting_points`, "optimal" for the
        clusters of least squared error.
    seed: of the start "random".
    weights: (n,) importance of each value, finite and not negative; None weighs them all alike.

    Returns the codebook. Raises ValueError for an unknown start, no values, or invalid values or weights.

    >>> cluster(np.array([0.0, 1.0, 10.0, 11.0]), 2, start="optimal").centroids.tolist()
    [0.5, 10.5]
    """
    check_one_of("start", start, STARTS)
    k = min(k, len(values))
    if start == "optimal":
        return optimal(values, k, weights)
    return lloyd(values, starting_points(values, k, start=start, seed=seed), weights)


def share_survivors(
    model: nn.Module,
    *,
    bits: int | Mapping[str, int],
    start: str = "linear",
    gap_bits: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """Let the non-zero weights of each layer share 2^bits - 1 trainable values; zero stays zero. In place.

    One of the 2^bits codes is kept for the zero of fillers. Train the model as usual afterwards, but at about a
    hundredth of the learning rate: a centroid's gradient is a sum over its cluster.

    model: a network, pruned or not.
    bits: of each code, 1 to 16, for all layers or by layer name; layers not named are left alone.
    start: how the clustering begins: "linear", "density" or "random" for Lloyd's iteration from evenly spaced values,
        from evenly spaced ranks or from weights drawn at random; "optimal" for the best values.
    gap_bits: width of the fields that hold the gaps between survivors in a file, 1 to 16; None takes the cheapest.
    seed: of the start "random".

    Returns the model. Raises ValueError for bits or gap_bits outside 1..16, an unknown start or layer, or a model
    without a layer that has a weight.

    >>> layer = nn.Linear(40, 25)
    >>> layer.weight.data[:, 4:] = 0.0  # pruned
    >>> layer = share_survivors(layer, bits=2, start="optimal")
    >>> layer.weight.count_nonzero().item(), len(layer.weight.unique())  # three shared values and zero
    (100, 4)
    """
    check_one_of("start", start, STARTS)
    check_names(model, bits)

    def form(name: str, _: object) -> PrunedSharedWeight | None:
        chosen = bits_of(bits, name)
        if chosen is None:
            return None
        return PrunedSharedWeight(lambda values: cluster(values, 2**chosen - 1, start=start, seed=seed), gap_bits)

    return compress(model, form)


def set_gap_bits(model: nn.Module, bits: int | None) -> nn.Module:
    """Set how many bits a file uses for each gap between survivors. In place.

    model: a network with layers whose survivors share values; others are left alone.
    bits: width of the fields, 1 to 16; None takes the cheapest for each layer.

    Returns the model. Raises ValueError for bits outside 1..16.

    >>> layer = set_gap_bits(share_survivors(nn.Linear(4, 3), bits=2), 5)
    >>> layer.parametrizations.weight[0].gap_bits
    5
    """
    check_gap_bits(bits)
    for module in model.modules():
        if isinstance(module, PrunedSharedWeight):
            module.gap_bits = bits
    return model


def check_gap_bits(gap_bits: int | None) -> None:
    """Raise ValueError for a gap width that is neither None nor in 1..16."""
    if gap_bits is not None and not 1 <= gap_bits <= 16:
        raise ValueError(f"gap_bits must be in 1..16, not {gap_bits}")
