r"""Binary weight network: one bit per weight and one scale per filter.

Each filter :math:`W` of :math:`n` weights is replaced by the nearest matrix of signs with one scale,

.. math:: \widetilde W = \alpha B, \qquad B = \operatorname{sign}(W), \qquad \alpha = \tfrac1n \lVert W \rVert_1,

which minimizes :math:`\lVert W - \alpha B \rVert^2` (rastegari2016xnor, equation 6). Training keeps W in full
precision, and the gradient goes through both factors, the sign's where :math:`\lvert W_i \rvert \le 1`:

.. math:: \frac{\partial C}{\partial W_i} = \frac{\operatorname{sign}(W_i)}{n} \sum_j g_j B_j
   + \alpha\, g_i\, \mathbb 1_{\lvert W_i \rvert \le 1}, \qquad g = \frac{\partial C}{\partial \widetilde W} .

The paper prints :math:`g_i (\tfrac1n + \alpha \mathbb 1)`, which leaves the other weights of the filter out.
A file holds n bits and one float for each filter.

Left out: a trained :math:`\alpha`, which the paper finds worse, and the factors by which the authors' code multiplies
the gradients of an optimizer without moments.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lib.binarization.shared.conversion import chosen
from lib.binarization.shared.signs import LAYERS, BinaryForm, Sign
from lib.weights import Encoding, Layer, PackedWeight, compress, layers


class BinaryWeight(BinaryForm):
    """alpha · sign(W), with one alpha for each filter, for a weight (filters, ...) of two dimensions or more.

    centered: whether the mean over the input channels is subtracted and the weight clipped to [-1, 1] first, as the
      authors' code does; False by default.
    """

    def __init__(self, *, centered: bool = False) -> None:
        super().__init__()
        self.centered = centered

    def extra_repr(self) -> str:
        return f"centered={self.centered}"

    def right_inverse(self, weight: Tensor) -> Tensor:
        if not torch.isfinite(self.forward(weight)).all():
            raise ValueError(f"weights up to {weight.abs().max():g} overflow in the mean of a filter")
        return weight

    # method
    def forward(self, latent: Tensor) -> Tensor:
        latent = self.prepared(latent)
        return scale(latent) * Sign.apply(latent)

    # end of method

    def prepared(self, latent: Tensor) -> Tensor:
        """The weight whose sign and size are taken: centered and clipped where asked for."""
        return (latent - latent.mean(1, keepdim=True)).clamp(-1, 1) if self.centered else latent

    def bases(self, *stored: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.prepared(*stored)
        return Sign.apply(latent)[None], scale(latent).reshape(1, -1)

    def encode(self, *stored: Tensor) -> Encoding:
        latent = self.prepared(*stored)
        return Encoding(symbols={"bit": (latent >= 0).flatten().long()}, tables={"alpha": scale(latent)})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        alpha = encoding.tables["alpha"].reshape(-1, *[1] * (len(shape) - 1))
        return alpha * (2.0 * encoding.symbols["bit"].reshape(shape).float() - 1.0)

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {"bit": shape.numel()}, {"alpha": shape[0]}


def scale(weight: Tensor) -> Tensor:
    """alpha = mean |W| of each filter.

    weight: (filters, ...).
    Returns (filters, 1, ...), to multiply the weight by.

    >>> scale(torch.tensor([[1.0, -3.0], [0.0, 1.0]])).tolist()
    [[2.0], [0.5]]
    """
    # method
    return weight.abs().mean(dim=tuple(range(1, weight.dim())), keepdim=True)
    # end of method


def one_bit(name: str, layer: Layer | PackedWeight, *, centered: bool) -> BinaryWeight:
    """A new :class:`BinaryWeight` for a layer.

    name: of the layer, for error messages.
    layer: the layer.
    centered: of the form; ValueError for a layer of one input channel, where centering would leave only zeros.
    """
    if centered and layer.weight.shape[1] == 1:
        raise ValueError(f"layer {name!r} has one input channel: centered, all its weights would be 0")
    return BinaryWeight(centered=centered)


def weights_to_binarize(model: nn.Module, names: Collection[str] | None) -> list[str]:
    """Names of the weights to binarize, checked and without duplicates.

    model: the network.
    names: of linear and 2-d convolution layers and of packed weights; None: all but those of the first and of the last
      module that has any.
    Raises ValueError for any other name, and if no weight is left.

    >>> weights_to_binarize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LSTM(4, 4), nn.Linear(4, 2)), None)
    ['1.weight_hh_l0', '1.weight_ih_l0']
    """
    places: dict[str, object] = {
        name: layer.module if isinstance(layer, PackedWeight) else layer
        for name, layer in layers(model)
        if isinstance(layer, LAYERS | PackedWeight)
    }
    packed = {name for name, layer in layers(model) if isinstance(layer, PackedWeight)}
    if not packed:
        return chosen(model, names)
    if names is None:
        ends = next(iter(places.values())), list(places.values())[-1]
        names = [name for name, module in places.items() if module is not ends[0] and module is not ends[1]]
        if not names:
            raise ValueError(
                f"{type(model).__name__} has no weight to binarize besides those of its first and last module, which"
                " are only binarized if they are named"
            )
    own = [name for name in names if name not in packed]
    return [name for name in names if name in packed] + (chosen(model, own) if own or not packed & set(names) else [])


def binarize(model: nn.Module, *, names: Collection[str] | None = None, centered: bool = False) -> nn.Module:
    """Binarize the weights of a network and return it; do not use the original afterwards.

    Each weight of the named layers is stored as one bit, with one scale for each filter.

    model: the network.
    names: of linear and 2-d convolution layers and of packed weights, such as those of attention and recurrent layers;
      None (default): all but those of the first and of the last module that has any.
    centered: whether the mean over the input channels is subtracted first; False by default.

    Returns the model to use from now on. Raises ValueError for an unknown layer, if no layer is left, for weights
    that are not finite, and for a centered layer of one input channel; the model is then unchanged.

    >>> from lib import models
    >>> model = binarize(models.lenet_300_100())
    >>> len(model.fc2.weight[0].unique())
    2
    """
    binary = weights_to_binarize(model, names)
    return compress(model, lambda name, layer: one_bit(name, layer, centered=centered) if name in binary else None)
