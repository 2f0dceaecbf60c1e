"""A network that is trained together with classifiers on its inner layers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lib import running, training
from lib.datasets import Split
from lib.training import Lesson


class WithHeads(nn.Module):
    r"""A network to train together with its auxiliary heads; ``training.fit`` also takes it as its own ``teaching``.

    .. math:: L = \ell(z, y) + w \sum_h \ell(z_h, y)

    network: it is trained in place, and keeps no head.
    heads: name of a direct part of the network -> module that makes logits of this part's output; at least one.
    weight: w of the loss of each head, 0 or more, default 0.3.
    loss: "cross_entropy" (default) or another one of ``training.fit``.

    Input and output are those of the network, in both modes.
    Raises ValueError for no head, one on a part that the network does not have, another weight, and another loss.

    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> model = WithHeads(network, {"0": nn.Linear(3, 2)})
    >>> split = Split(torch.rand(4, 4), torch.tensor([0, 1, 0, 1]))
    >>> len(training.fit(model, split, epochs=2, seed=0, teaching=model))
    2
    """

    def __init__(
        self,
        network: nn.Module,
        heads: Mapping[str, nn.Module],
        *,
        weight: float = 0.3,
        loss: str | training.Loss = "cross_entropy",
    ) -> None:
        parts = [name for name, _ in network.named_children()]
        if not heads or not {*heads} <= {*parts}:
            raise ValueError(f"heads must be on parts of the network, one or more of {parts}, not {[*heads]}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be a finite number of 0 or more, not {weight!r}")
        if not callable(loss) and loss not in training.LOSSES:
            raise ValueError(f"loss must be one of {', '.join(training.LOSSES)}, or a function, not {loss!r}")
        super().__init__()
        self.network, self.weight = network, weight
        self.loss = loss if callable(loss) else training.LOSSES[loss]
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    @contextmanager
    def lesson(self, student: nn.Module, split: Split, *, augmented: bool) -> Iterator[Lesson]:
        """Give the loss of network and heads, as :class:`lib.training.Teaching` asks for it.

        student: this model itself.
        split, augmented: not used.
        """
        if student is not self:
            raise ValueError(f"these heads teach their own network, not another {type(student).__name__}")
        with running.captured(self.network, self.heads) as flow:

            def total(outputs: Tensor, labels: Tensor, images: Tensor, samples: Tensor) -> Tensor:
                running.check_ran(self.heads, flow.outputs)
                # method
                by_heads = [self.loss(head(flow.outputs[name]), labels) for name, head in self.heads.items()]
                return self.loss(outputs, labels) + self.weight * torch.stack(by_heads).sum()
                # end of method

            yield total
