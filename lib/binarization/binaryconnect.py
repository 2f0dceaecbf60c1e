r"""BinaryConnect: binary weights when signals pass, real ones when they are updated.

Of the real weight w both passes see its sign, drawn or taken (courbariaux2015binaryconnect, equations 1 to 3),

.. math:: w_b = \operatorname{sign}(w) \quad\text{or}\quad
   P(w_b = +1) = \sigma(w) = \mathrm{clip}\big(\tfrac{w / c + 1}{2}, 0, 1\big),

and the gradient of :math:`w_b` moves w, which is then clipped: :math:`w \leftarrow \mathrm{clip}(w - \eta\,
\partial C / \partial w_b, -c, c)`. The paper has c = 1 and, for Adam, a learning rate 1 / H larger for each layer, with
:math:`H = \sqrt{1.5 / (n_{in} + n_{out})}`. Adam's step does not depend on the size of the gradient, so c = H with one
learning rate for all is the same; that is the default here, and weights enter at the size at which they are made.
"""

import torch
from torch import Tensor, nn

from lib import training
from lib.binarization.shared.signs import BinaryForm, Sign, clip
from lib.datasets import Split
from lib.weights import Encoding, compress

INFERENCE = ("real", "sign")


class BinaryConnectWeight(BinaryForm):
    """The sign of a latent weight in [-c, c], any shape of two dimensions or more.

    limit: c, or None for H of the layer. stochastic: draw the sign at each forward pass of training, from ``seed``.
    inference: what a stochastic one is in evaluation mode, the "real" weight / c as in the paper, or its "sign".
    """

    def __init__(self, *, limit: float | None = None, stochastic: bool = False, seed: int = 0, inference: str = "real"):
        super().__init__()
        if limit is not None and not limit > 0:
            raise ValueError(f"limit must be a number above 0, or None, not {limit}")
        if inference not in INFERENCE:
            raise ValueError(f"inference must be one of {', '.join(INFERENCE)}, not {inference!r}")
        self.limit, self.stochastic, self.inference = limit, stochastic, inference
        self.seed, self.generator = seed, torch.Generator().manual_seed(seed)

    def extra_repr(self) -> str:  # tells settings apart, for a reader and for the cache of trained networks
        return f"limit={self.limit}, stochastic={self.stochastic}, seed={self.seed}, inference={self.inference}"

    def right_inverse(self, weight: Tensor) -> Tensor:
        if self.limit is None:
            self.limit = glorot(weight)
        return weight.clamp(-self.limit, self.limit)

    def forward(self, latent: Tensor) -> Tensor:
        if not self.stochastic or (not self.training and self.inference == "sign"):
            return Sign.apply(latent, torch.inf)  # the gradient of w_b is that of w, whatever w
        if not self.training:
            return latent / self.limit
        drawn = torch.rand(latent.shape, generator=self.generator, dtype=latent.dtype)
        positive = drawn < hard_sigmoid(latent / self.limit)  # drawn is below 1 and may be 0
        return Sign.apply(latent, torch.inf, positive.to(latent.dtype) - 0.5)

    def clip(self, latent: Tensor) -> None:
        with torch.no_grad():
            latent.clamp_(-self.limit, self.limit)

    def bases(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        return Sign.apply(latent)[None], latent.new_ones(1, len(latent))

    def encode(self, latent: Tensor) -> Encoding:
        if self.stochastic and self.inference == "real":
            return Encoding(tables={"real": latent / self.limit})
        return Encoding(symbols={"bit": (latent >= 0).flatten().long()})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        if "real" in encoding.tables:
            return encoding.tables["real"].reshape(shape)
        return 2.0 * encoding.symbols["bit"].reshape(shape) - 1.0


def glorot(weight: Tensor) -> float:
    r"""H = :math:`\sqrt{1.5 / (n_{in} + n_{out})}`, for a convolution times the kernel's area (the authors' code)."""
    area = weight[0, 0].numel()
    return (1.5 / (area * (weight.shape[0] + weight.shape[1]))) ** 0.5


def hard_sigmoid(x: Tensor) -> Tensor:
    """clip((x + 1) / 2, 0, 1): equation 3."""
    return ((x + 1) / 2).clamp(0, 1)


def binarize(model: nn.Module, **settings: object) -> nn.Module:
    """Store every linear and convolution weight as :class:`BinaryConnectWeight` with ``settings``. In place.

    Layers get seeds of their own, from ``seed`` upward. Returns the model; raises ValueError as ``compress`` does.
    """
    seed = int(settings.pop("seed", 0))
    count = iter(range(seed, seed + 10**6))
    return compress(model, lambda name, layer: BinaryConnectWeight(seed=next(count), **settings))


def fit(
    model: nn.Module,
    split: Split,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 1e-3,
    batch_size: int = 100,
    loss: str = "squared_hinge",
    weight_decay: float = 0.0,
    shift: int = 0,
) -> list[float]:
    """Train a network with binary weights: Adam, the squared hinge loss, and latent weights clipped after each step.

    Returns each epoch's loss. No weight decay unless it is asked for: it would pull weights to zero, where signs flip.
    Errors as those of :func:`lib.training.fit`.
    """
    how = {"learning_rate": learning_rate, "batch_size": batch_size, "weight_decay": weight_decay, "shift": shift}
    return training.fit(
        model, split, epochs=epochs, seed=seed, optimizer="adam", loss=loss, after_step=lambda: clip(model), **how
    )
