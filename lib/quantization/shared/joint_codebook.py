"""One codebook for all layers: their weights are quantized together, and one parameter holds the shared values."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lib.quantization.deep_compression import PrunedSharedWeight
from lib.quantization.optimal_kmeans import Codebook
from lib.quantization.scalar_kmeans import SharedWeight
from lib.quantization.shared.hessian_diagonal import Importance
from lib.quantization.shared.names import check_names
from lib.weights import CompressedWeight, Encoding, Layer, PackedWeight, chain_of, compress, layers


class JointlySharedWeight(PrunedSharedWeight):
    """centroids[codes] at the places of the survivors, where ``centroids`` is one parameter of all layers.

    In a file, layers cannot share a table, so each layer repeats the centroids that it uses.

    centroids: (k,) float64, the values that all layers share.
    codes: (survivors,) int64, the index of the centroid of each weight that is not zero.
    """

    def __init__(self, centroids: Tensor, codes: Tensor) -> None:
        CompressedWeight.__init__(self)  # nothing is left to cluster
        self.gap_bits = None
        self.begin = centroids
        self.register_buffer("codes", codes)

    # A tuple, unlike the parent's: torch then keeps the parameter separate, so all layers can share it.
    def right_inverse(self, weight: Tensor) -> tuple[Tensor]:  # type: ignore[override]
        self.register_buffer("places", weight.detach().flatten().nonzero().flatten())
        self.codes = self.codes.to(weight.device)
        self.shape = weight.shape
        return (self.begin.to(weight),)

    def forward(self, centroids: Tensor) -> Tensor:
        whole = len(self.places) == self.shape.numel()  # nothing is pruned
        return SharedWeight.forward(self, centroids) if whole else super().forward(centroids)

    def encode(self, centroids: Tensor) -> Encoding:
        used = torch.bincount(self.codes, minlength=len(centroids)) > 0
        number = used.cumsum(dim=0)  # from 1, among those that this layer uses
        table = {"centroid": centroids[used]}
        if len(self.places) == self.shape.numel():  # no places, and no code for the zero of fillers
            return Encoding(symbols={"code": number[self.codes] - 1}, tables=table)
        symbols = super().encode(centroids).symbols
        code = torch.cat([number.new_zeros(1), number]).cpu()[symbols["code"]]
        return Encoding(symbols={**symbols, "code": code}, tables=table)

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        form = PrunedSharedWeight if "gap" in encoding.symbols else SharedWeight
        return form.decode(encoding, shape)


def share_together(
    model: nn.Module,
    cluster: Callable[[np.ndarray, np.ndarray], Codebook],
    *,
    importance: Importance | None = None,
    floor: float = 1e-3,
) -> nn.Module:
    """Give the non-zero weights of all layers one codebook; zero stays zero. In place.

    model: any network whose layers' weights are of one type of float.
    cluster: function from values (n,) and their weights (n,), both float64, to a codebook; the weights have mean
        1 + floor.
    importance: layer name -> importance of each of its weights, of the weight's shape, finite and not negative; a
        common factor changes nothing. Layers that it does not name are left alone. None: all layers, all weights alike.
    floor: added to each importance, in units of their mean, 0 or more, so that a weight that no sample ever used
        counts a little.

    Returns the model.
    Raises ValueError for a negative floor, layers whose weights are of several types, and an importance that names a
    layer the model does not have, is negative or not finite, or has another shape than the weight.

    >>> from lib.quantization.optimal_kmeans import optimal
    >>> model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))
    >>> model = share_together(model, lambda values, weights: optimal(values, 4, weights))
    >>> len({*model[0].weight.unique().tolist(), *model[2].weight.unique().tolist()})
    4
    """
    if not 0 <= floor < np.inf:
        raise ValueError(f"floor must be 0 or more, not {floor}")
    check_names(model, importance or {})
    if len({layer.weight.dtype for _, layer in layers(model)}) > 1:
        raise ValueError("the layers' weights are of several types: one codebook needs one type of float")
    named = {n: layer for n, layer in layers(model) if importance is None or n in importance}
    dense = {name: layer.weight.detach().double().flatten().cpu() for name, layer in named.items()}
    kept = {name: weight.nonzero().flatten() for name, weight in dense.items()}
    fitting = {name: _fitting(importance, name, layer) for name, layer in named.items()}
    values = np.concatenate([np.zeros(0), *(dense[name][p].numpy() for name, p in kept.items())])
    weights = np.concatenate([np.zeros(0), *(fitting[name][p].numpy() for name, p in kept.items())])
    mean = weights.mean() if len(weights) else 0.0
    # method
    weights = (weights / mean if mean > 0 else np.ones_like(weights)) + floor
    # end of method
    book = Codebook(values[:0], np.zeros(len(values), dtype=np.int64), 0.0)
    if len(values) and np.isfinite(values).all():
        # method
        book = cluster(values, weights)
        # end of method
    codes = dict(zip(kept, torch.from_numpy(book.codes).split([len(p) for p in kept.values()]), strict=True))
    centroids = torch.from_numpy(book.centroids)
    compress(model, lambda n, _: JointlySharedWeight(centroids, codes[n].clone()) if n in named else None)
    chains = [chain_of(layer) for layer in named.values()]
    for chain in chains[1:]:  # from here on one parameter, whose gradient is the sum over all layers
        chain.original0 = chains[0].original0
    return model


def _fitting(importance: Importance | None, name: str, layer: Layer | PackedWeight) -> Tensor:
    """The importance of a layer's weights: checked, flat, float64."""
    if importance is None:
        return torch.ones(layer.weight.numel(), dtype=torch.float64)
    given = importance[name].detach().double().cpu()
    if given.shape != layer.weight.shape or not torch.isfinite(given).all() or (given < 0).any():
        raise ValueError(
            f"the importance of layer {name!r}, of shape {tuple(given.shape)}, must be finite, not negative,"
            f" and of the weight's shape {tuple(layer.weight.shape)}"
        )
    return given.flatten()
