r"""Training in fixed point: each number of a network is a whole multiple of one step, in 16 bits or so.

A format of IL integer bits, including the sign, and FL fractional bits holds the multiples of
:math:`\epsilon = 2^{-FL}` in :math:`[-2^{IL-1},\, 2^{IL-1} - \epsilon]`; a word has :math:`WL = IL + FL` bits.
A number x outside goes to the nearest rail, any other to one of its two neighbors (gupta2015limited, section 3):

.. math:: \text{nearest: } \lfloor x \rfloor + \epsilon\,[\,x - \lfloor x \rfloor \ge \epsilon / 2\,], \qquad
    \text{stochastic: } \lfloor x \rfloor + \epsilon \text{ with probability } (x - \lfloor x \rfloor) / \epsilon ,

where :math:`\lfloor x \rfloor` is the largest multiple of :math:`\epsilon` that is not above x. Weights, biases,
outputs, errors, gradients and updates are all rounded so, and learning is
:math:`W \leftarrow Q(W - Q(\eta\, Q(g)))`. The formats and their rounding are in ``shared/formats.py``, the training
loop in ``shared/gradient_descent.py``.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lib.arguments import check_one_of
from lib.precision.shared.arithmetic import Arithmetic
from lib.precision.shared.formats import ROUNDINGS, Format, flat_floats, rounded
from lib.precision.shared.straight_through import through
from lib.weights import CompressedWeight, Encoding, compress, layers


class FixedPoint(Arithmetic):
    """All numbers in one format. Outside training, rounding is to nearest, so that answers do not depend on chance.

    format: of all numbers.
    rounding: in training, "nearest" (default) or "stochastic".
    storage: a wider format for gradients, updates and stored parameters; default: ``format`` for them all.
    mask: whether an output that was clipped at a rail has an error of zero; default yes. As far as we know this is not
        in the paper, but with few integer bits training can diverge without it.
    seed: of stochastic rounding, default 0.

    Raises ValueError for an unknown rounding (gupta2015limited).

    >>> from lib.precision.shared.gradient_descent import Split, train
    >>> model, split = nn.Linear(4, 2), Split(torch.rand(8, 4), torch.arange(8) % 2)
    >>> losses = train(model, split, arithmetic=FixedPoint(Format(6, 10, word=16)), epochs=1, seed=0)
    >>> bool((1024 * model.weight % 1 == 0).all())  # 10 bits of fraction
    True
    """

    def __init__(
        self,
        format: Format,
        *,
        rounding: str = "nearest",
        storage: Format | None = None,
        mask: bool = True,
        seed: int = 0,
    ):
        check_one_of("rounding", rounding, ROUNDINGS)
        self.format, self.storage, self.rounding, self.mask = format, storage or format, rounding, mask
        self.generator = torch.Generator().manual_seed(int(seed))

    def rounded(self, values: Tensor, place: str) -> Tensor:
        """The values rounded to ``format``; gradients and updates to ``storage``."""
        wide = place.endswith((".gradient", ".update"))
        return self._rounded(values, self.storage if wide else self.format)

    def keep(self, values: Tensor, place: str) -> Tensor:
        """A parameter rounded to ``storage``."""
        return self._rounded(values, self.storage)

    def saturated(self, values: Tensor, place: str) -> Tensor | None:
        """Where an output lies beyond the rails; None without a mask."""
        return (values < self.format.lowest) | (values > self.format.highest) if self.mask else None

    def _rounded(self, values: Tensor, format: Format) -> Tensor:
        rounding = self.rounding if self.learning else "nearest"
        return rounded(values, format, rounding=rounding, generator=self.generator)


class FixedPointWeight(CompressedWeight):
    """The dense weight, rounded to the nearest number of a format; its gradient goes straight to the dense weight.

    format: of the numbers that the layer computes with, and of the codes in a file.
    """

    def __init__(self, format: Format):
        super().__init__()
        self.format = format

    def right_inverse(self, weight: Tensor) -> Tensor:
        flat_floats(weight)  # refuses other types of numbers
        return weight

    def forward(self, weight: Tensor) -> Tensor:
        return through(weight, lambda w: rounded(w, self.format))

    def encode(self, weight: Tensor) -> Encoding:
        whole = (self.forward(weight).detach().double() / self.format.step).long().flatten()
        code = (whole + 2 ** (self.format.word - 1)).cpu()
        symbols = {"low": code & 0xFFFF, "high": code >> 16} if self.format.word > 16 else {"code": code}
        return Encoding(symbols, {"bits": torch.tensor([self.format.integer_bits, self.format.fraction_bits]).float()})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        format = Format(*encoding.whole("bits", 2))
        symbols = encoding.symbols
        code = symbols["code"].long() if format.word <= 16 else symbols["low"].long() + (symbols["high"].long() << 16)
        return ((code - 2 ** (format.word - 1)).double() * format.step).float().reshape(shape)

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return dict.fromkeys(("code", "low", "high"), shape.numel()), {"bits": 2}


def quantize(model: nn.Module, format: Format | Mapping[str, Format]) -> nn.Module:
    """Keep the weight of each layer in fixed point, rounded to nearest. In place; returns the model.

    model: any network; its biases stay floats.
    format: one for all layers, or layer name -> format (layers that it does not name are left alone).

    Raises ValueError for an unknown layer, for weights that are not finite, float32 or float64, and for a weight that
    two layers share; the model is then unchanged.

    >>> from lib import models
    >>> model = quantize(models.lenet_300_100(), {"fc3": Format(2, 2)})
    >>> bool((model.fc3.weight % 0.25 == 0).all())
    True
    """
    known = [name for name, _ in layers(model)]
    chosen = dict(format) if isinstance(format, Mapping) else dict.fromkeys(known, format)
    for name in chosen:
        if name not in known:
            raise ValueError(f"no layer {name!r} to quantize: the layers are {', '.join(known)}")
    return compress(model, lambda name, _: FixedPointWeight(chosen[name]) if name in chosen else None)
