r"""Hessian-weighted k-means: one codebook for all layers, whose errors are weighed by what they cost in loss.

Around a minimum of the loss, with the cross terms left out, moving the weights by :math:`\delta w` costs

.. math:: \delta L \approx \tfrac12 \sum_i h_{ii}\, \delta w_i^2, \qquad \text{so minimise} \qquad
    \sum_{j=1}^{k} \sum_{w_i \in C_j} h_{ii} (w_i - c_j)^2, \qquad
    c_j = \frac{\sum_{C_j} h_{ii} w_i}{\sum_{C_j} h_{ii}}

(choi2017towards). A weight still belongs to its nearest centroid; only the centroids move. The errors of all
layers are in one unit, that of the loss, so all layers are quantized together and share one codebook.

An *importance* is a dict from layer name to a tensor of the weight's shape that is not negative. Four sources of it:
:func:`exact_diagonal` (small networks), :func:`gauss_newton_diagonal`, :func:`second_moment_roots` from an optimizer,
and whatever the caller has. A common factor changes nothing. Biases stay as they are.
"""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lib import running
from lib.datasets import Split
from lib.quantization.deep_compression import STARTS, PrunedSharedWeight, start
from lib.quantization.optimal_kmeans import Codebook, lloyd, optimal
from lib.quantization.scalar_kmeans import SharedWeight
from lib.quantization.shared.names import check_names
from lib.weights import Encoding, compress, decompress, layers

Importance = Mapping[str, Tensor]
OPTIMIZERS = {
    "adam": torch.optim.Adam,  # kingma2015adam
    "adagrad": torch.optim.Adagrad,  # duchi2011adagrad
    "adadelta": torch.optim.Adadelta,  # zeiler2012adadelta
    "rmsprop": torch.optim.RMSprop,  # tieleman2012rmsprop
}
SECOND_MOMENTS = ("exp_avg_sq", "sum", "square_avg")  # what these four call theirs


class JointlySharedWeight(PrunedSharedWeight):
    """centroids[codes] at the places of the survivors, where ``centroids`` is one parameter of all layers.

    A file has no tables that layers share: it repeats for each layer the centroids that this layer uses.
    codes: (survivors,) int64.
    """

    def __init__(self, centroids: Tensor, codes: Tensor):
        super().__init__(None)
        self.begin = centroids
        self.register_buffer("codes", codes)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor]:
        self.register_buffer("places", weight.detach().flatten().nonzero().flatten())
        self.shape = weight.shape
        return (self.begin.to(weight.dtype),)

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
        symbols["code"] = torch.cat([number.new_zeros(1), number])[symbols["code"]]
        return Encoding(symbols=symbols, tables=table)

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        form = PrunedSharedWeight if "gap" in encoding.symbols else SharedWeight
        return form.decode(encoding, shape)


def share(
    model: nn.Module,
    *,
    k: int,
    importance: Importance | None = None,
    how: str = "optimal",
    floor: float = 1e-3,
    seed: int = 0,
) -> nn.Module:
    """Let the non-zero weights of all layers together share k trainable values; zero stays zero. In place.

    importance: none is plain k-means. how: the optimal values, or Lloyd's from a start of ``deep_compression.STARTS``.
    floor and errors are those of :func:`share_together`; ValueError also on k < 1 and an unknown start.
    """
    if how not in STARTS:
        raise ValueError(f"how must be one of {', '.join(STARTS)}, not {how!r}")
    if k < 1:
        raise ValueError(f"k must be 1 or more, not {k}")

    def cluster(values: np.ndarray, weights: np.ndarray) -> Codebook:
        few = min(k, len(values))
        return (
            optimal(values, few, weights) if how == "optimal" else lloyd(values, start(values, few, how, seed), weights)
        )

    return share_together(model, cluster, importance=importance, floor=floor)


def share_together(
    model: nn.Module,
    cluster: Callable[[np.ndarray, np.ndarray], Codebook],
    *,
    importance: Importance | None = None,
    floor: float = 1e-3,
) -> nn.Module:
    """Give the non-zero weights of all layers, or those that ``importance`` names, one codebook. In place.

    cluster: from values (n,) and weights (n,), of mean 1 + floor, to a codebook of all.
    floor: added to each importance, in units of their mean, so that a weight which no sample ever used has some.
    Raises ValueError on an importance that does not fit the model, is negative or not finite, and on a negative floor.
    """
    if not 0 <= floor < np.inf:
        raise ValueError(f"floor must be 0 or more, not {floor}")
    check_names(model, dict(importance or {}))
    if len({layer.weight.dtype for _, layer in layers(model)}) > 1:
        raise ValueError("the layers' weights are of several types: one codebook needs one type of float")
    named = {n: layer for n, layer in layers(model) if importance is None or n in importance}
    dense = {name: layer.weight.detach().double().flatten() for name, layer in named.items()}
    kept = {name: weight.nonzero().flatten() for name, weight in dense.items()}
    fitting = {name: _fitting(importance, name, layer) for name, layer in named.items()}
    values = np.concatenate([np.zeros(0), *(dense[name][p].numpy() for name, p in kept.items())])
    weights = np.concatenate([np.zeros(0), *(fitting[name][p].numpy() for name, p in kept.items())])
    mean = weights.mean() if len(weights) else 0.0
    weights = (weights / mean if mean > 0 else np.ones_like(weights)) + floor
    book = Codebook(values[:0], np.zeros(len(values), dtype=np.int64), 0.0)
    if len(values) and np.isfinite(values).all():
        book = cluster(values, weights)
    codes = dict(zip(kept, torch.from_numpy(book.codes).split([len(p) for p in kept.values()]), strict=True))
    centroids = torch.from_numpy(book.centroids)
    compress(model, lambda n, _: JointlySharedWeight(centroids, codes[n].clone()) if n in named else None)
    chains = [layer.parametrizations.weight for layer in named.values()]
    for chain in chains[1:]:  # from here on one parameter, whose gradient is the sum over all layers
        chain.original0 = chains[0].original0
    return model


def _fitting(importance: Importance | None, name: str, layer: nn.Module) -> Tensor:
    if importance is None:
        return torch.ones(layer.weight.numel(), dtype=torch.float64)
    found = importance[name].detach().double()
    if found.shape != layer.weight.shape or not torch.isfinite(found).all() or (found < 0).any():
        raise ValueError(
            f"the importance of layer {name!r}, of shape {tuple(found.shape)}, must be finite, not negative,"
            f" and of the weight's shape {tuple(layer.weight.shape)}"
        )
    return found.flatten()


def _prepared(model: nn.Module, data: Split) -> tuple[nn.Module, dict[str, Tensor]]:
    if len(data) == 0:
        raise ValueError("the split to measure on is empty: at least one sample is needed")
    model = decompress(copy.deepcopy(model)).eval().requires_grad_(True)
    weights = {name: layer.weight for name, layer in layers(model)}
    if not weights:
        raise ValueError(f"{type(model).__name__} has no layer with a weight: there is nothing to weigh")
    return model, weights


def exact_diagonal(model: nn.Module, data: Split, *, chunk: int = 64) -> dict[str, Tensor]:
    """Layer name -> second derivative of the mean cross-entropy by each weight; it may be negative.

    Double back-propagation of ``chunk`` unit vectors at a time: for small networks. ValueError on an empty split.
    """
    model, weights = _prepared(model, data)
    loss = nn.functional.cross_entropy(running.logits(model, data.images), data.labels)
    found = {}
    gradients = torch.autograd.grad(loss, [*weights.values()], create_graph=True)
    for (name, w), g in zip(weights.items(), gradients, strict=True):
        rows = []
        for at in torch.arange(w.numel()).split(chunk):
            unit = torch.zeros(len(at), w.numel(), dtype=w.dtype).scatter_(1, at[:, None], 1).view(-1, *w.shape)
            row = torch.autograd.grad(g, w, unit, retain_graph=True, is_grads_batched=True, materialize_grads=True)[0]
            rows.append(row.flatten(1).gather(1, at[:, None]).flatten())
        found[name] = torch.cat(rows).view(w.shape)
    return found


def gauss_newton_diagonal(
    model: nn.Module, data: Split, *, seed: int, draws: int = 1, batch_size: int | None = None
) -> dict[str, Tensor]:
    r"""Layer name -> estimate of the diagonal of the Gauss-Newton matrix of the mean cross-entropy, never negative.

    :math:`\mathbb E\, g^2` with the gradient g of one sample whose label is drawn from the network's own answer,
    ``draws`` times for each sample. Without bias, and the Hessian itself where logits are linear in the weights. Memory
    grows with ``batch_size`` times the weights; by default a batch takes 256 MB. ValueError on an empty split.
    """
    model, weights = _prepared(model, data)
    rest = {name: value.detach() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    given = {f"{name}.weight".lstrip("."): w.detach() for name, w in weights.items()}
    generator = torch.Generator().manual_seed(seed)
    batch_size = batch_size or max(1, min(128, 2**26 // sum(w.numel() for w in weights.values())))

    def loss(now: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, rest | now, (image[None],))
        return nn.functional.cross_entropy(logits, label[None])

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(w) for name, w in given.items()}
    for images in data.images.split(batch_size):
        with torch.no_grad():
            p = running.logits(model, images).softmax(dim=1)
        if not torch.isfinite(p).all():
            raise ValueError("the network's logits hold NaN or infinity: finite ones are needed")
        for labels in torch.multinomial(p, draws, replacement=True, generator=generator).unbind(dim=1):
            for name, g in per_sample(given, images, labels).items():
                total[name] += g.square_().sum(dim=0)
    return {name: each / (draws * len(data)) for name, each in zip(weights, total.values(), strict=True)}


def second_moment_roots(
    model: nn.Module, data: Split, *, optimizer: str, seed: int, steps: int = 100, batch_size: int = 128
) -> dict[str, Tensor]:
    """Layer name -> square root of the second moment that ``optimizer`` keeps of each weight's gradient.

    The optimizer runs ``steps`` steps with learning rate zero: the weights hold still and only its averages move. After
    training with it, :func:`read_moments` gives the same for nothing. ValueError on another optimizer or no samples.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be 1 or more, not {steps} and {batch_size}")
    model, weights = _prepared(model, data)
    still = OPTIMIZERS[optimizer](weights.values(), lr=0.0)
    generator = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    for _ in range(steps):
        order = order or [*torch.randperm(len(data), generator=generator).split(batch_size)]
        batch = order.pop()
        still.zero_grad()
        nn.functional.cross_entropy(running.logits(model, data.images[batch]), data.labels[batch]).backward()
        still.step()
    return read_moments(model, still)


def read_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The same from the state of an optimizer that trained ``model``; ValueError where it keeps no second moment."""
    found = {}
    for name, layer in layers(model):
        state = optimizer.state.get(layer.weight, {})
        moment = next((state[key] for key in SECOND_MOMENTS if key in state), None)
        if moment is None:
            raise ValueError(
                f"{type(optimizer).__name__} keeps no second moment of layer {name!r}:"
                f" accepted are {', '.join(OPTIMIZERS)} after a step"
            )
        found[name] = moment.detach().sqrt()
    return found
