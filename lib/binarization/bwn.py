r"""Binary weight network: one bit for each weight, and one scale for each filter.

Each filter :math:`W` of :math:`n` weights is replaced by the nearest matrix of signs with one size,

.. math:: \widetilde W = \alpha B, \qquad B = \operatorname{sign}(W), \qquad \alpha = \tfrac1n \lVert W \rVert_1,

which minimises :math:`\lVert W - \alpha B \rVert^2` (rastegari2016xnor, equation 6). Training keeps W in full
precision, and the gradient goes through both factors, the sign's where :math:`\lvert W_i \rvert \le 1`:

.. math:: \frac{\partial C}{\partial W_i} = \frac{\operatorname{sign}(W_i)}{n} \sum_j g_j B_j
   + \alpha\, g_i\, \mathbb 1_{\lvert W_i \rvert \le 1}, \qquad g = \frac{\partial C}{\partial \widetilde W} .

The paper prints :math:`g_i (\tfrac1n + \alpha \mathbb 1)`, which leaves the other weights of the filter out.
A file holds n bits and one float for each filter.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lib.binarization.shared.signs import BinaryForm, Sign, chosen
from lib.weights import Encoding, compress


class BinaryWeight(BinaryForm):
    """alpha · sign(W), one alpha for each output filter. Weight: (filters, ...), two dimensions or more.

    centred: take the mean over the input channels off first, and clip to [-1, 1], as the authors' code does.
    """

    def __init__(self, *, centred: bool = False):
        super().__init__()
        self.centred = centred

    def extra_repr(self) -> str:
        return f"centred={self.centred}"

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def forward(self, latent: Tensor) -> Tensor:
        latent = self.prepared(latent)
        return scale(latent) * Sign.apply(latent)

    def prepared(self, latent: Tensor) -> Tensor:
        return (latent - latent.mean(1, keepdim=True)).clamp(-1, 1) if self.centred else latent

    def bases(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.prepared(latent)
        return Sign.apply(latent)[None], scale(latent).reshape(1, -1)

    def encode(self, latent: Tensor) -> Encoding:
        latent = self.prepared(latent)
        return Encoding(symbols={"bit": (latent >= 0).flatten().long()}, tables={"alpha": scale(latent)})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        alpha = encoding.tables["alpha"].reshape(-1, *[1] * (len(shape) - 1))
        return alpha * (2.0 * encoding.symbols["bit"].reshape(shape) - 1.0)


def scale(weight: Tensor) -> Tensor:
    """alpha = mean |W| of each filter, shaped (filters, 1, ...) to multiply the weight."""
    return weight.abs().mean(dim=tuple(range(1, weight.dim())), keepdim=True)


def one_bit(name: str, layer: nn.Module, *, centred: bool) -> BinaryWeight:
    """The form for a layer. Raises ValueError where centring would leave nothing: with a single input channel."""
    if centred and layer.weight.shape[1] == 1:
        raise ValueError(f"layer {name!r} has one input channel: centred, all its weights would be 0")
    return BinaryWeight(centred=centred)


def binarize(model: nn.Module, *, names: Collection[str] | None = None, centred: bool = False) -> nn.Module:
    """Give the named layers, or all but the first and the last, one bit for each weight. In place; returns the model.

    Raises ValueError for a layer that is not there, where none is left, for weights that are not finite, and for
    ``centred`` ones of a single input channel.
    """
    names = chosen(model, names)
    return compress(model, lambda name, layer: one_bit(name, layer, centred=centred) if name in names else None)
