r"""Train, prune, retrain: remove the weights of small magnitude, and let the others learn to do without them.

A weight is kept where its magnitude reaches a threshold that each layer sets by its own spread,

.. math:: m_{ij} = \mathbb 1\big(\lvert w_{ij} \rvert \ge s\, \sigma\big), \qquad \hat w_{ij} = m_{ij} w_{ij},

with the quality parameter :math:`s` and the standard deviation :math:`\sigma` of the layer's weights (han2015learning,
section 3). Then the survivors are trained on from the values they have. Repeating prune and retrain in small steps
removes far more than one large step. The file keeps each survivor as a float and its place as a gap.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lib import training
from lib.coding import gaps
from lib.datasets import Split
from lib.pruning.shared import selection
from lib.weights import CompressedWeight, Encoding, compress, decompress, layers


class PrunedWeight(CompressedWeight):
    """weight * mask: what is pruned is exactly zero and gets no gradient. mask: 0 or 1, of the weight's shape."""

    def __init__(self, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask.float())

    def right_inverse(self, weight: Tensor) -> Tensor:
        return self.forward(weight)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask + 0.0  # adding zero turns the -0 of a pruned negative weight into 0

    def encode(self, weight: Tensor) -> Encoding:
        flat = self.forward(weight).flatten()
        places = flat.nonzero().flatten()
        if 33 * len(places) > 32 * len(flat):  # too dense for places to pay
            return Encoding(tables={"value": flat})
        fields, kept = gaps.encode(places.numpy(), gaps.best_bits(places.numpy(), filler_bits=32))
        values = torch.zeros(len(fields))
        values[torch.from_numpy(kept)] = flat[places]
        return Encoding(symbols={"gap": torch.from_numpy(fields)}, tables={"value": values})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        if "gap" not in encoding.symbols:
            return encoding.tables["value"].reshape(shape)
        return gaps.scatter(encoding.symbols["gap"], encoding.tables["value"], shape)


def threshold(weight: Tensor, quality: float) -> float:
    """The magnitude below which a weight is pruned: the quality parameter times the layer's standard deviation."""
    if not quality >= 0:
        raise ValueError(f"the quality parameter must be 0 or larger, not {quality}")
    return quality * weight.std(correction=0).item()


def masks(
    model: nn.Module,
    *,
    density: float | Mapping[str, float] | None = None,
    quality: float | None = None,
    scope: str = "layer",
) -> dict[str, Tensor]:
    """Layer name -> bool mask of the weights to keep, by exactly one of

    quality: keep magnitudes of at least ``quality`` standard deviations of their layer;
    density: keep this share of the weights, those of the largest magnitude. ``scope="layer"``: this share of each
        layer, or of each layer in a mapping of names (layers not named are left alone). ``scope="global"``: this share
        of all weights, at the one quality parameter, equal for all layers, that gives it.
    Weights that are zero already stay pruned, so masks of falling densities are nested. Nothing is ever kept of a layer
    beyond its non-zeros; of ties the first is kept. Raises ValueError on a density outside (0, 1] or an unknown layer.
    """
    if (density is None) == (quality is None):
        raise ValueError("give exactly one of density and quality")
    if scope not in ("layer", "global"):
        raise ValueError(f"scope must be 'layer' or 'global', not {scope!r}")
    weights = {name: layer.weight.detach() for name, layer in layers(model)}
    if not weights:
        raise ValueError(
            f"{type(model).__name__} has no layer with a weight: accepted are linear and convolution layers"
        )
    if quality is not None:
        return {name: (w.abs() >= threshold(w, quality)) & (w != 0) for name, w in weights.items()}
    shares = density if isinstance(density, Mapping) else dict.fromkeys(weights, density)
    for name, share in shares.items():
        if name not in weights:
            raise ValueError(f"no layer {name!r} to prune: the layers are {', '.join(weights)}")
        if not 0 < share <= 1:
            raise ValueError(f"density must be in (0, 1], not {share}")
    if scope == "global":
        if isinstance(density, Mapping):
            raise ValueError("scope='global' takes one density for the whole network, not one per layer")
        scaled = torch.cat([(w.abs() / w.std(correction=0).clamp_min(1e-30)).flatten() for w in weights.values()])
        kept = selection.largest(scaled, density).split([w.numel() for w in weights.values()])
        return {name: mask.reshape(w.shape) for (name, w), mask in zip(weights.items(), kept, strict=True)}
    return {name: selection.largest(weights[name].abs(), share) for name, share in shares.items()}


def prune(model: nn.Module, *, kept: Mapping[str, Tensor] | None = None, **how: object) -> nn.Module:
    """Mask the weights that :func:`masks` (same arguments) does not keep. In place; returns the model.

    kept: masks that another criterion chose, instead. The biases are left alone. Retraining
    (:func:`lib.training.fit`) then changes the survivors only. Raises ValueError for masks that do not fit.
    """
    kept = masks(model, **how) if kept is None else kept
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers(model)}
    for name, mask in kept.items():
        if shapes.get(name) != tuple(mask.shape):
            raise ValueError(f"the mask of layer {name!r} has shape {tuple(mask.shape)}: the layers have {shapes}")
    return compress(model, lambda name, layer: PrunedWeight(kept[name]) if name in kept else None)


def iterative(
    model: nn.Module,
    split: Split,
    *,
    density: float,
    rounds: int,
    epochs: int,
    seed: int,
    scope: str = "layer",
    **fit: object,
) -> nn.Module:
    """The loop of the survey's Figure 3: prune a little, retrain, go on until ``density`` is reached.

    Round r of R prunes to density^(r/R) and retrains for ``epochs`` epochs with the arguments ``fit`` of
    :func:`lib.training.fit`. The pruned weights are zeros of a dense model at the end. In place; returns the model.
    """
    if not 0 < density <= 1 or rounds < 1:
        raise ValueError(f"density must be in (0, 1] and rounds 1 or more, not {density} and {rounds}")
    for r in range(1, rounds + 1):
        prune(model, density=density ** (r / rounds), scope=scope)
        training.fit(model, split, epochs=epochs, seed=seed + r, **fit)
    return decompress(model)


def gradual(
    model: nn.Module,
    split: Split,
    *,
    density: float | Mapping[str, float],
    ramp: int,
    epochs: int,
    seed: int,
    scope: str = "layer",
    **fit: object,
) -> nn.Module:
    """The same loop with a step at every epoch, all in one run of falling learning rate.

    Before epoch e < ``ramp`` the density becomes density^((e + 1) / ramp), for the network or for each layer of a
    mapping; the epochs after the ramp only retrain. The pruned weights are zeros of a dense model at the end. In place;
    returns the model.
    """
    shares = density.values() if isinstance(density, Mapping) else [density]
    if not all(0 < share <= 1 for share in shares) or not 1 <= ramp <= epochs:
        raise ValueError(f"density must be in (0, 1] and ramp in 1..{epochs} (epochs), not {density} and {ramp}")

    def step(epoch: int) -> None:
        if epoch < ramp:
            part = (epoch + 1) / ramp
            now = {k: d**part for k, d in density.items()} if isinstance(density, Mapping) else density**part
            prune(model, density=now, scope=scope)

    training.fit(model, split, epochs=epochs, seed=seed, before_epoch=step, **fit)
    return decompress(model)


def density(model: nn.Module) -> float:
    """Share of the weights (biases left out) that are not zero."""
    weights = [layer.weight for _, layer in layers(model)]
    return sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)
