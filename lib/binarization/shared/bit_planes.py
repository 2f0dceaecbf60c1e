r"""A first layer that reads pixels of a few bits and counts bits like the others.

A pixel of 8 bits is a sum of bits, one from each plane of the image, and so is the layer's sum of products with signs
(courbariaux2016binarynet):

.. math:: s = x \cdot w = \sum_{n=1}^{8} 2^{n-1}\, (x^n \cdot w), \qquad
   x^n \cdot w = \tfrac12 \big((2 x^n - 1) \cdot w + 1 \cdot w\big)

where :math:`x^n` is the plane of the n-th bit, 0 and 1, and :math:`2 x^n - 1` are signs.
"""

import torch
from torch import Tensor, nn

from lib.binarization.shared.inference import BitLayer
from lib.binarization.shared.signs import Binarized, SignActivation


class PlaneLayer(nn.Module):
    """A layer with binary weights, in evaluation mode, that reads whole pixels plane by plane.

    Its sums are whole numbers, exact in float64 whatever their size. A float network whose pixels are whole numbers
    gives the same; one that reads :math:`x / 255` differs by the rounding of its own sums.

    layer: nn.Linear or nn.Conv2d whose weight is one matrix of signs with a scale for each filter.
    bits: of a pixel, 1 to 16; 8 by default.
    step: the value of the lowest bit: inputs are 0, step, ..., (2^bits - 1) · step; 1 / 255 by default.
    name: of the layer, for error messages; "" by default.

    Raises ValueError for another weight, for other bits, for a step that is not above 0 and, when it runs, for inputs
    that are not such pixels.

    >>> from lib.binarization.bwn import binarize
    >>> layer = binarize(nn.Linear(4, 3), names=[""])
    >>> pixels = torch.tensor([[0.0, 7.0, 255.0, 128.0]])
    >>> torch.allclose(PlaneLayer(layer, step=1.0)(pixels), layer(pixels))
    True
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, *, bits: int = 8, step: float = 1 / 255, name: str = "") -> None:
        super().__init__()
        if bits not in range(1, 17) or not 0 < step < float("inf"):
            raise ValueError(f"bits must be a whole number from 1 to 16 and step above 0, not {bits} and {step}")
        self.bits, self.step = int(bits), float(step)
        self.signs = BitLayer(Binarized(layer, SignActivation()), name)
        if len(self.signs.scales) > 1:
            raise ValueError(
                f"the weight of layer {name!r} is a sum of {len(self.signs.scales)} matrices of signs: accepted is one"
            )
        self.bias, self.signs.bias = self.signs.bias, None
        self.register_buffer("scale", self.signs.scales[0].clone())
        self.signs.scales.fill_(1)
        self.eval()

    scale: Tensor

    def extra_repr(self) -> str:
        return f"bits={self.bits}, step={self.step}"

    def forward(self, x: Tensor) -> Tensor:
        pixels = (x / self.step).round().long()
        if not pixels.numel():
            return self.signs(x)
        if pixels.min() < 0 or pixels.max() >= 2**self.bits:
            low, high = (v.item() * self.step for v in (pixels.min(), pixels.max()))
            raise ValueError(
                f"pixels range from {low:g} to {high:g}: accepted are 0 to {2**self.bits - 1} times the step"
            )
        if (x / self.step - pixels).abs().max() > 0.01:
            raise ValueError(f"pixels must be whole multiples of {self.step:g}: at least one is not")
        # method
        ones = self.signs(torch.ones_like(x[:1])).double()  # 1 · w, the same for all
        planes = [self.signs(2.0 * (pixels >> n & 1) - 1) for n in range(self.bits)]
        sums = sum(2**n * (plane.double() + ones) / 2 for n, plane in enumerate(planes))
        # end of method
        shape = (-1, *[1] * (2 * self.signs.image))
        outputs = (sums * (self.step * self.scale.double()).reshape(shape)).to(x.dtype)
        return outputs if self.bias is None else outputs + self.bias.reshape(shape)
