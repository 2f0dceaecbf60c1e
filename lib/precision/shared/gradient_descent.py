r"""Plain stochastic gradient descent in which every number is rounded.

Learning is :math:`W \leftarrow Q(W - Q(\eta\, Q(g)))`, with the rounding Q of an arithmetic, which also rounds outputs
and errors. A dot product is summed in a wide accumulator and rounded once. Here that accumulator is a float of the
model's type: float64 is exact, while float32 rounds a sum of more than 24 bits before that. The loss and its softmax
stay floats, and so does the inside of batch norm; what a ``forward`` computes between layers is not rounded.
"""

from collections.abc import Mapping
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from lib import running, training
from lib.datasets import Split
from lib.precision.shared.arithmetic import Arithmetic, check_called, computing


class DescentOptions(TypedDict, total=False):
    """Options of :func:`train` that are passed on to it by name: ``**options: Unpack[DescentOptions]``."""

    learning_rate: float
    decay: float
    batch_size: int


def train(
    model: nn.Module,
    split: Split,
    *,
    arithmetic: Arithmetic,
    epochs: int,
    seed: int,
    learning_rate: float = 0.1,
    decay: float = 0.95,
    batch_size: int = 128,
) -> list[float]:
    """Minimize the cross-entropy by plain stochastic gradient descent in the arithmetic; return each epoch's mean loss.

    The error of each sample is not divided by the size of the batch; the sum over the batch is divided in the wide
    accumulator, before the gradient is rounded. In place: the model ends with the rounded parameters, in evaluation
    mode.

    model: any network whose layers are modules that are called, float32 or float64.
    split: images and labels to train on.
    arithmetic: in which every number is kept.
    epochs: passes over the split, 0 or more.
    seed: of the order of the samples, which depends on nothing else.
    learning_rate: of the first epoch, default 0.1.
    decay: factor of the learning rate after each epoch, default 0.95.
    batch_size: samples per step, 1 or more, default 128.

    Raises ValueError for an empty split, arguments out of range and a loss that is not finite. Before anything is
    changed, it is also raised for a parameter that the arithmetic does not accept, for a weight that is used without
    calling its layer (attention, recurrent layers), and for a network that returns several tensors in training mode.

    >>> from lib import models
    >>> model, split = models.lenet_300_100(inputs=4), Split(torch.rand(8, 1, 2, 2), torch.arange(8))
    >>> len(train(model, split, arithmetic=Arithmetic(), epochs=2, seed=0))
    2
    """
    split.check_not_empty("to train on")
    if epochs < 0 or batch_size < 1:
        raise ValueError(f"epochs must be 0 or more and batch_size 1 or more, not {epochs} and {batch_size}")
    check_called(model)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    order, losses = torch.Generator().manual_seed(int(seed)), []
    kept = {}
    for name, p in parameters.items():
        try:
            kept[name] = arithmetic.keep(p.detach().clone(), name)
        except ValueError as error:
            raise ValueError(f"{name} cannot be kept: {error}") from error
    training.check_one_answer(model, split.images)
    _enter(parameters, kept, arithmetic)
    arithmetic.learning = True
    try:
        with computing(model.train(), arithmetic):
            for epoch in range(epochs):
                total, rate = 0.0, learning_rate * decay**epoch
                for batch in torch.randperm(len(split), generator=order).split(batch_size):
                    outputs = running.logits(model, split.images[batch])
                    loss = nn.functional.cross_entropy(outputs, split.labels[batch], reduction="sum")
                    total += loss.item()
                    if not np.isfinite(total):
                        raise ValueError(f"training diverged in epoch {epoch + 1}: try a lower learning rate")
                    for (name, parameter), gradient in zip(
                        parameters.items(), torch.autograd.grad(loss, list(parameters.values())), strict=True
                    ):
                        # method
                        # W <- Q(W - Q(eta Q(g)))
                        gradient = arithmetic.rounded(gradient / len(batch), f"{name}.gradient")
                        update = arithmetic.rounded(rate * gradient, f"{name}.update")
                        kept[name] = arithmetic.keep(kept[name] - update, name)
                        parameter.data.copy_(arithmetic.rounded(kept[name], name))
                        # end of method
                    arithmetic.end_of_step()
                losses.append(total / len(split))
    finally:
        arithmetic.learning = False
        model.eval()
    _enter(parameters, kept, arithmetic)
    return losses


def _enter(parameters: Mapping[str, nn.Parameter], kept: Mapping[str, Tensor], arithmetic: Arithmetic) -> None:
    for name, parameter in parameters.items():
        parameter.data.copy_(arithmetic.rounded(kept[name], name))
