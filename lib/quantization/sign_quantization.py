r"""Sign quantization: one bit per weight, without training.

The crudest of the four methods of gong2014vq keeps only the sign of each weight,

.. math:: \hat W_{ij} = \alpha_i \operatorname{sign}(W_{ij}), \qquad \operatorname{sign}(0) = +1 .

As published there is no scale, :math:`\alpha = 1`. The scale with the least squared error is the mean of
:math:`\lvert W_{ij} \rvert`, over the layer or over the row of each output. (A transposed convolution has its outputs
in the second dimension.) A file holds one bit for each weight and the scales as floats, a compression rate of
32 n / (n + 32 scales).
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lib.arguments import check_one_of
from lib.weights import CompressedWeight, Encoding, compress, weight_named

SCALES = ("none", "layer", "row")
TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class SignWeight(CompressedWeight):
    """scale · sign(weight). The parameter is the scale, (0,), (1,) or (outputs,).

    scale: "none", "layer" for one scale, or "row" for one per output.
    transposed: the groups of a transposed convolution, whose weight is (inputs, outputs / groups, ...); 0 (default) for
        any other layer, whose weight is (outputs, ...).
    """

    positive: Tensor

    def __init__(self, scale: str = "none", *, transposed: int = 0) -> None:
        super().__init__()
        check_one_of("scale", scale, SCALES)
        self.scale, self.transposed = scale, transposed if scale == "row" else 0

    def right_inverse(self, weight: Tensor) -> Tensor:
        weight = weight.detach()
        # method
        self.register_buffer("positive", weight >= 0)  # torch.sign(0) would be 0
        if self.scale == "none":
            return weight.new_zeros(0)
        rows = weight.abs().double().reshape(1 if self.scale == "layer" else len(weight), -1)
        # end of method
        if self.transposed:
            rows = weight.abs().double().unflatten(0, (self.transposed, -1)).transpose(1, 2).flatten(0, 1).flatten(1)
        # method
        return rows.mean(dim=1).to(weight.dtype)
        # end of method

    def forward(self, scale: Tensor) -> Tensor:
        return signed(self.positive, scale, self.transposed)

    def encode(self, scale: Tensor) -> Encoding:
        tables = {"scale": scale}
        if self.transposed:  # 0 is the default
            tables["transposed"] = torch.tensor([float(self.transposed)])
        return Encoding(symbols={"sign": self.positive.flatten().long()}, tables=tables)

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        (transposed,) = encoding.whole("transposed", 1) if "transposed" in encoding.tables else [0]
        return signed(encoding.symbols["sign"].reshape(shape) > 0, encoding.tables["scale"], transposed)

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {"sign": shape.numel()}, {"scale": shape.numel(), "transposed": 1}


def signed(positive: Tensor, scale: Tensor, transposed: int = 0) -> Tensor:
    """Turn signs into weights: ±1, times one scale for the layer, one for each row, or none.

    positive: bool, of the weight's shape; False is -1.
    scale: (0,) for none, (1,) or (outputs,).
    transposed: the groups of a transposed convolution, 0 (default) for any other layer.

    Raises ValueError if the number of scales does not fit.

    >>> signed(torch.tensor([[True, False], [False, False]]), torch.tensor([0.5, 2.0])).tolist()
    [[0.5, -0.5], [-2.0, -2.0]]
    """
    inputs, *rest = positive.shape
    outputs = transposed * rest[0] if transposed else inputs
    if len(scale) not in (0, 1, outputs) or transposed < 0 or (transposed and inputs % transposed):
        raise ValueError(f"{len(scale)} scales in {transposed} groups do not fit a weight of {tuple(positive.shape)}")
    # method
    signs = torch.where(positive, 1.0, -1.0).to(scale.dtype)
    # end of method
    if transposed and len(scale) > 1:  # input i belongs to the group i // (inputs / groups), and so do its outputs
        scale = scale.reshape(transposed, -1).repeat_interleave(inputs // transposed, 0)
        return signs * scale.reshape(inputs, -1, *[1] * (signs.dim() - 2))
    # method
    return signs * scale.reshape(-1, *[1] * (signs.dim() - 1)) if len(scale) else signs
    # end of method


def quantize(model: nn.Module, *, scale: str = "none", names: Collection[str] | None = None) -> nn.Module:
    """Keep only the sign of each weight, times the mean magnitude of the layer or the row if asked for. In place.

    model: any network.
    scale: "none" as published, "layer" for one scale per layer, or "row" for one per output.
    names: of the layers to quantize; None takes them all.

    Returns the model.
    Raises ValueError for an unknown scale or layer, or a model without a layer that has a weight (gong2014vq).

    >>> layer = quantize(nn.Linear(30, 20))
    >>> layer.weight.unique().tolist()
    [-1.0, 1.0]
    """
    check_one_of("scale", scale, SCALES)
    for name in names or ():
        weight_named(model, name)

    def form(name: str, layer: object) -> SignWeight | None:
        if names is not None and name not in names:
            return None
        return SignWeight(scale, transposed=layer.groups if isinstance(layer, TRANSPOSED) else 0)

    return compress(model, form)
