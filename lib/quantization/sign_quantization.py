r"""Signs: one bit a weight, without training.

The crudest of the four methods of gong2014vq keeps of each weight its sign alone,

.. math:: \hat W_{ij} = \alpha_i \operatorname{sign}(W_{ij}), \qquad \operatorname{sign}(0) = +1 .

As published there is no scale, :math:`\alpha = 1`. The scale that loses the least squared error is the mean of
:math:`\lvert W_{ij} \rvert`, over the layer or over the row of each output. A file holds one bit for each weight and
the scales as floats, a compression rate of 32 n / (n + 32 scales).
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lib.weights import CompressedWeight, Encoding, check_one_of, compress, layer_named

SCALES = ("none", "layer", "row")


class SignWeight(CompressedWeight):
    """scale · sign(weight). Stored, and trained if the network is: the scale, (0,), (1,) or (outputs,).

    scale: "none", "layer" for one scale, or "row" for one per output.
    """

    positive: Tensor

    def __init__(self, scale: str = "none") -> None:
        super().__init__()
        check_one_of("scale", scale, SCALES)
        self.scale = scale

    def right_inverse(self, weight: Tensor) -> Tensor:
        weight = weight.detach()
        # method
        self.register_buffer("positive", weight >= 0)  # torch.sign(0) would be 0
        if self.scale == "none":
            return weight.new_zeros(0)
        rows = weight.abs().double().reshape(1 if self.scale == "layer" else len(weight), -1)
        return rows.mean(dim=1).to(weight.dtype)
        # end of method

    def forward(self, scale: Tensor) -> Tensor:
        return signed(self.positive, scale)

    def encode(self, scale: Tensor) -> Encoding:
        return Encoding(symbols={"sign": self.positive.flatten().long()}, tables={"scale": scale})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        return signed(encoding.symbols["sign"].reshape(shape) > 0, encoding.tables["scale"])

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {"sign": shape.numel()}, {"scale": shape[0]}


def signed(positive: Tensor, scale: Tensor) -> Tensor:
    """Turn signs into weights: ±1, times one scale for the layer, one for each row, or none.

    positive: bool, of the weight's shape; False is -1.
    scale: (0,) for none, (1,) or (outputs,).

    >>> signed(torch.tensor([[True, False], [False, False]]), torch.tensor([0.5, 2.0])).tolist()
    [[0.5, -0.5], [-2.0, -2.0]]
    """
    # method
    signs = torch.where(positive, 1.0, -1.0).to(scale.dtype)
    return signs * scale.reshape(-1, *[1] * (signs.dim() - 1)) if len(scale) else signs
    # end of method


def quantize(model: nn.Module, *, scale: str = "none", names: Collection[str] | None = None) -> nn.Module:
    """Keep the sign of each weight alone, times the mean magnitude of the layer's or the row's weights. In place.

    model: any network.
    scale: "none" as published, "layer" for one scale a layer, or "row" for one per output.
    names: of the layers to quantize; None takes them all.

    Returns the model.
    Raises ValueError for another scale, an unknown layer, or a model without a layer that has a weight (gong2014vq).

    >>> layer = quantize(nn.Linear(30, 20))
    >>> layer.weight.unique().tolist()
    [-1.0, 1.0]
    """
    check_one_of("scale", scale, SCALES)
    for name in names or ():
        layer_named(model, name)
    return compress(model, lambda name, _: SignWeight(scale) if names is None or name in names else None)
