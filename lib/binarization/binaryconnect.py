r"""BinaryConnect: both passes use only the signs of the weights, and real weights accumulate the updates.

A real weight w is replaced by its sign, or by one drawn at random (courbariaux2015binaryconnect, equations 1 to 3),

.. math:: w_b = \operatorname{sign}(w) \quad\text{or}\quad
   P(w_b = +1) = \sigma(w) = \mathrm{clip}\big(\tfrac{w / c + 1}{2}, 0, 1\big),

and the gradient of :math:`w_b` moves w, which is then clipped: :math:`w \leftarrow \mathrm{clip}(w - \eta\,
\partial C / \partial w_b, -c, c)`. The paper has c = 1 and, for Adam, learning rates 1 / H times as large, with
:math:`H = \sqrt{1.5 / (n_{in} + n_{out})}` of each layer. Adam's step does not depend on the size of the gradient, so
c = H with one learning rate for all layers is equivalent. That is the default: weights keep their initial size.
Left out: initial weights drawn uniformly from [-c, c], and learning rates per layer for optimizers other than Adam.
"""

from itertools import count
from typing import Unpack

import torch
from torch import Tensor, nn

from lib import training
from lib.arguments import check_one_of
from lib.binarization.shared.conversion import clip
from lib.binarization.shared.signs import BinaryForm, Sign
from lib.datasets import Split
from lib.training import LoopOptions
from lib.weights import Encoding, compress

INFERENCE = ("real", "sign")
FIT_DEFAULTS: LoopOptions = {"batch_size": 100, "loss": "squared_hinge", "weight_decay": 0.0}


class BinaryConnectWeight(BinaryForm):
    """The sign of a latent weight in [-c, c], of any shape of two dimensions or more.

    A stochastic form draws from ``generator``, on the CPU whatever the device. Its state is the buffer ``drawn``, up
    to date in every ``state_dict``, so a copy, or a network that loads the state, continues with the same draws. (A
    file does not hold it: draws are for training.)

    limit: c, above 0; None (default): H of the layer.
    stochastic: whether a new sign is drawn at each forward pass of training; False by default.
    seed: of the draws; 0 by default.
    inference: what a stochastic weight is in evaluation mode: "real" (default), weight / c as in the paper, or "sign".
    Raises ValueError for another limit or inference.
    """

    def __init__(
        self, *, limit: float | None = None, stochastic: bool = False, seed: int = 0, inference: str = "real"
    ) -> None:
        super().__init__()
        if limit is not None and not limit > 0:
            raise ValueError(f"limit must be a number above 0, or None, not {limit}")
        check_one_of("inference", inference, INFERENCE)
        self.limit, self.stochastic, self.inference = limit, stochastic, inference
        self.seed, self.generator = int(seed), torch.Generator().manual_seed(int(seed))
        if stochastic:  # kept by hooks, since reading the state at each draw would cost more than drawing
            self.register_buffer("drawn", self.generator.get_state())
            self.register_state_dict_pre_hook(_note_draws)
            self.register_load_state_dict_post_hook(_take_draws)

    def extra_repr(self) -> str:  # tells settings apart, for a reader and for the cache of trained networks
        return f"limit={self.limit}, stochastic={self.stochastic}, seed={self.seed}, inference={self.inference}"

    def right_inverse(self, weight: Tensor) -> Tensor:
        if self.limit is None:
            self.limit = glorot(weight)
        return weight.clamp(-self.limit, self.limit)

    # method
    def forward(self, latent: Tensor) -> Tensor:
        if not self.stochastic or (not self.training and self.inference == "sign"):
            return Sign.apply(latent, torch.inf)  # w gets the gradient of w_b, however large w is
        if not self.training:
            return latent / self._c()
        drawn = torch.rand(latent.shape, generator=self.generator, dtype=latent.dtype).to(latent.device)
        positive = drawn < hard_sigmoid(latent / self._c())  # drawn is below 1 and may be 0
        return Sign.apply(latent, torch.inf, positive.to(latent.dtype) - 0.5)

    def clip(self, latent: Tensor) -> None:
        """Bring the latent weight back into [-c, c], after an update. In place."""
        with torch.no_grad():
            latent.clamp_(-self._c(), self._c())

    # end of method

    def _c(self) -> float:
        """The limit c, known once a weight has been stored."""
        if self.limit is None:
            raise ValueError("limit comes from a layer's weight: store one in this form first")
        return self.limit

    def bases(self, *stored: Tensor) -> tuple[Tensor, Tensor]:
        (latent,) = stored
        return Sign.apply(latent)[None], latent.new_ones(1, len(latent))

    def encode(self, *stored: Tensor) -> Encoding:
        (latent,) = stored
        if self.stochastic and self.inference == "real":
            return Encoding(tables={"real": latent / self._c()})
        return Encoding(symbols={"bit": (latent >= 0).flatten().long()})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        if "real" in encoding.tables:
            return encoding.tables["real"].reshape(shape)
        return 2.0 * encoding.symbols["bit"].reshape(shape).float() - 1.0

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {"bit": shape.numel()}, {"real": shape.numel()}


def _note_draws(form: nn.Module, prefix: str, keep_vars: bool) -> None:
    """Copy the generator's state to the buffer, before a ``state_dict`` is read."""
    assert isinstance(form, BinaryConnectWeight)
    form.get_buffer("drawn").copy_(form.generator.get_state())


def _take_draws(form: nn.Module, keys: object) -> None:
    """Set the generator's state from the buffer, after a ``state_dict`` was loaded."""
    assert isinstance(form, BinaryConnectWeight)
    form.generator.set_state(form.get_buffer("drawn").cpu())


def glorot(weight: Tensor) -> float:
    r"""H = :math:`\sqrt{1.5 / (n_{in} + n_{out})}`; for a convolution, n includes the kernel's area (authors' code).

    weight: (outputs, inputs, ...).

    >>> round(glorot(torch.zeros(300, 784)), 4)
    0.0372
    """
    area = weight[0, 0].numel()
    return (1.5 / (area * (weight.shape[0] + weight.shape[1]))) ** 0.5


def hard_sigmoid(x: Tensor) -> Tensor:
    """clip((x + 1) / 2, 0, 1), for x of any shape: equation 3."""
    return ((x + 1) / 2).clamp(0, 1)


def binarize(
    model: nn.Module,
    *,
    limit: float | None = None,
    stochastic: bool = False,
    seed: int = 0,
    inference: str = "real",
) -> nn.Module:
    """Binarize the weights of a network and return it; do not use the original afterwards.

    Every linear and convolution weight is stored as :class:`BinaryConnectWeight`.

    limit: c, above 0, of the latent weights, which stay in [-c, c]; None (default): H of each layer.
    stochastic: whether signs are drawn at each forward pass of training; False by default.
    seed: of the first layer's draws; each following layer has the next whole number. 0 by default.
    inference: what a stochastic weight is in evaluation mode, "real" (default) or "sign".

    Returns the model to use from now on. Raises ValueError for another limit or inference, for weights that are shared
    or not finite, and for a model without weights; the model is then unchanged.

    >>> from lib import models
    >>> model = binarize(models.mlp(hidden=(8,)))
    >>> model.fc1.weight.unique().tolist()
    [-1.0, 1.0]
    """
    seeds = count(seed)
    return compress(
        model,
        lambda *_: BinaryConnectWeight(limit=limit, stochastic=stochastic, seed=next(seeds), inference=inference),
    )


def fit(
    model: nn.Module,
    split: Split,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 1e-3,
    **options: Unpack[LoopOptions],
) -> list[float]:
    """Train a network with binary weights by Adam, clipping the latent weights after each step. In place.

    Weight decay is off by default: it would pull weights to zero, where signs flip.

    model: binarized by this file or another of this section; real parameters are trained as well.
    split: images and labels to train on.
    epochs: how often to go through the split.
    seed: of the order of images and the shifts.
    learning_rate: of Adam; 0.001 by default.
    options: of the training, see :func:`lib.training.fit`:

      - batch_size: images in a step; 100 by default.
      - loss: "squared_hinge" (default), "cross_entropy" or "squared_error".
      - weight_decay: of parameters of two dimensions or more; 0 by default.
      - shift: pixels by which each image is moved at most, in both directions; 0 by default.

    Returns each epoch's mean loss. Raises TypeError for other options, and ValueError for an empty split, an unknown
    loss, and one that is not finite.
    """
    training.check_options(options, kinds=LoopOptions)
    return training.fit(
        model,
        split,
        epochs=epochs,
        seed=seed,
        optimizer="adam",
        learning_rate=learning_rate,
        after_step=lambda: clip(model),
        **FIT_DEFAULTS | options,
    )
