"""What reaches the layers that read removed channels, when the removed filters write NaN or noise."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib.structure.apart import answers, twin
from lib.structure.copies import Cut, losses
from lib.structure.group import channel_axis


@dataclass
class Answers:
    """The result of a run: all tensors of the output, and the sum of magnitudes of each input that readers got."""

    outputs: list[Tensor]
    read: list[Tensor]


class Twin:
    """A twin of a network that records how much the readers of removed channels read, since later zeros may hide it.

    network: any network; it is left as it was.
    readers: names of layers.

    >>> network = nn.Sequential(nn.ReLU(), nn.Linear(2, 3))
    >>> given = Twin(network, ["1"]).answers(torch.tensor([[-1.0, 2.0]]), training=False)
    >>> tuple(given.outputs[0].shape), given.read
    ((1, 3), [tensor(2., dtype=torch.float64)])
    """

    def __init__(self, network: nn.Module, readers: Iterable[str]) -> None:
        self.network, self.readers = twin(network), tuple(readers)
        self.read: list[Tensor] = []
        for name in self.readers:
            self.network.get_submodule(name).register_forward_pre_hook(self._reader(name), with_kwargs=True)

    def answers(self, inputs: Tensor, training: bool) -> Answers:
        self.read = []
        return Answers(answers(self.network, inputs, training=training), self.read)

    def seen(self, name: str, layer: nn.Module, x: Tensor) -> Tensor:
        """Return what a layer reads instead of x."""
        return x

    def _reader(self, name: str) -> Any:
        def hook(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            x = self.seen(name, layer, args[0] if args else kwargs["input"])
            self.read.append(x.abs().sum(dtype=torch.float64))
            return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "input": x})

        return hook


class Probe(Twin):
    """A twin whose removed filters write NaN or noise, while the layers that read them get zeros.

    model: any network; it is left as it was.
    cuts: groups of it, each with its removed channels.

    Set ``noise`` to write noise instead of NaN. ``wrote`` names the producers that have run, and ``outside`` the
    readers that got NaN in columns other than those of the removed channels.

    >>> from lib.structure.group import Group
    >>> cuts = [(Group(2, ("0",), {}, {"1": torch.tensor([[1], [0]])}), torch.tensor([True, False]))]
    >>> probe, inputs = Probe(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3)), cuts), torch.zeros(1, 2)
    >>> answers = probe.answers(inputs, training=False)
    >>> probe.wrote, probe.outside
    ({'0'}, ['1'])
    """

    def __init__(self, model: nn.Module, cuts: Sequence[Cut]) -> None:
        lost = losses(model, cuts)
        super().__init__(model, [name for name, loss in lost.items() if loss.columns is not None])
        self.noise = False
        self.columns = {name: loss.columns for name, loss in lost.items() if loss.columns is not None}
        self.wrote: set[str] = set()  # the producers that ran
        self.outside: list[str] = []  # readers that got NaN in columns other than the removed ones
        for group, removed in cuts:
            for name in group.producers:
                self.network.get_submodule(name).register_forward_hook(self._writer(name, removed))

    def seen(self, name: str, layer: nn.Module, x: Tensor) -> Tensor:
        axis, gone = channel_axis(layer, x), self.columns[name].to(x.device)
        x = x.index_fill(axis, gone.nonzero().flatten(), 0)
        if not self.noise and x.isnan().any():
            self.outside.append(name)
        return x

    def _writer(self, name: str, gone: Tensor) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            self.wrote.add(name)
            axis, where = channel_axis(layer, output), gone.nonzero().flatten().to(output.device)
            if not self.noise:
                return output.index_fill(axis, where, torch.nan)
            shape = [len(where) if i == axis else n for i, n in enumerate(output.shape)]
            drawn = torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
            return output.index_copy(axis, where, (10 * drawn).to(output))

        return hook
