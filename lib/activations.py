"""The peak memory of a network's activations in one forward pass: the most bytes that are alive at the same time."""

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib import running
from lib.arguments import check_sizes


def peak_activation_bytes(model: nn.Module, shape: tuple[int, ...]) -> int:
    r"""Measure the peak memory of the activations in one forward pass of one input, in bytes.

    Memory that tensors share counts once, until the last of them is gone. So the peak is

    .. math:: \max_t \sum_{s \text{ alive after operation } t} \mathrm{bytes}(s)

    over all memory s that holds the input or a result of an operation. A part of a network that holds on to its input
    while it runs, such as a residual block, keeps it alive, and so does its caller. An operation may return more than
    the answer: a max pool also returns the places of the largest values, eight bytes each. Parameters and buffers do
    not count, nor do compressed weights, which are unpacked beforehand, nor memory that an operation uses inside.

    model: any network. It runs once, in evaluation mode and without gradients; modes are restored afterwards. On the
        "meta" device it costs no memory, and each batch norm counts the statistics that it returns there.
    shape: of one input, without the batch: (channels, height, width).

    Raises ValueError for a shape that is not of whole numbers of 1 or more, or that the model does not take.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    >>> peak_activation_bytes(model, (3, 8, 8)) // 4  # input, output of the convolution, output of the ReLU
    704
    """
    check_sizes({f"dimension {i} of shape": size for i, size in enumerate(shape)})
    first: Tensor = next(model.parameters(), torch.zeros(0))
    with torch.no_grad(), running.evaluating(model), parametrize.cached():
        image = torch.zeros(1, *shape, device=first.device, dtype=first.dtype)
        with _Alive([image], [*model.parameters(), *model.buffers(), *_unpacked(model)]) as alive:
            running.logits(model, image)
    return alive.peak


def _unpacked(model: nn.Module) -> Iterable[Tensor]:
    """The weights that are computed from what is stored; ``parametrize.cached`` keeps them."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            chains: Any = module.parametrizations
            yield from (getattr(module, name) for name in chains)


class _Alive(TorchDispatchMode):
    """Follows the memory of all that operations return; ``peak`` is the most that was alive at once.

    given: activations that are alive already.
    ignored: tensors whose memory does not count.
    """

    def __init__(self, given: Iterable[Tensor], ignored: Iterable[Tensor]) -> None:
        super().__init__()
        self.ignored = WeakSet(tensor.untyped_storage() for tensor in ignored)
        # PyTorch gives all tensors on one piece of memory the same storage object, and drops it with the memory
        self.alive: WeakKeyDictionary[torch.UntypedStorage, int] = WeakKeyDictionary()
        self.peak = 0
        self.note(given)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = function(*args, **(kwargs or {}))
        self.note(value for value in tree_leaves(returned) if isinstance(value, Tensor))
        return returned

    def note(self, tensors: Iterable[Tensor]) -> None:
        # method
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if storage not in self.ignored:
                self.alive[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self.alive.values()))
        # end of method
