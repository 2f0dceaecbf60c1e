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

from lib.weights import CompressedWeight, Encoding, compress, layers

SCALES = ("none", "layer", "row")


class SignWeight(CompressedWeight):
    """scale · sign(weight). The scale is what is stored, and trained if the network is: (0,), (1,) or (outputs,)."""

    def __init__(self, scale: str = "none"):
        super().__init__()
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}, not {scale!r}")
        self.scale = scale

    def right_inverse(self, weight: Tensor) -> Tensor:
        weight = weight.detach()
        self.register_buffer("positive", weight >= 0)  # torch.sign(0) would be 0
        if self.scale == "none":
            return weight.new_zeros(0)
        rows = weight.abs().double().reshape(1 if self.scale == "layer" else len(weight), -1)
        return rows.mean(dim=1).to(weight.dtype)

    def forward(self, scale: Tensor) -> Tensor:
        return signed(self.positive, scale)

    def encode(self, scale: Tensor) -> Encoding:
        return Encoding(symbols={"sign": self.positive.flatten().long()}, tables={"scale": scale})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        return signed(encoding.symbols["sign"].reshape(shape) > 0, encoding.tables["scale"])


def signed(positive: Tensor, scale: Tensor) -> Tensor:
    """± 1 for each weight, times one scale for the layer, one for each row, or none."""
    signs = torch.where(positive, 1.0, -1.0).to(scale.dtype)
    return signs * scale.reshape(-1, *[1] * (signs.dim() - 1)) if len(scale) else signs


def quantize(model: nn.Module, *, scale: str = "none", names: Collection[str] | None = None) -> nn.Module:
    """Keep the sign of each weight alone, times the mean size of the layer's or the row's weights. In place.

    scale: "none" as published, "layer", or "row" for one scale an output. names: of the layers; None takes them all.
    Returns the model. Raises ValueError on an unknown scale or layer, and for a model without a layer.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, not {scale!r}")
    known = [name for name, _ in layers(model)]
    for name in known if names is None else names:
        if name not in known:
            raise ValueError(f"no layer {name!r} to quantize: the layers are {', '.join(known)}")
    return compress(model, lambda name, _: SignWeight(scale) if names is None or name in names else None)
