"""Run a copy of a network, with all randomness switched off and no effect on anything outside."""

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
_DRAWS = {
    *(_ATEN.bernoulli, _ATEN.bernoulli_, _ATEN.rand, _ATEN.rand_like, _ATEN.uniform_),
    *(_ATEN.randn, _ATEN.randn_like, _ATEN.normal_),
}


class _Still(TorchDispatchMode):
    """Inside the block, every draw of dropout, stochastic depth or added noise gives ones, whatever its shape."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = getattr(function, "overloadpacket", None)
        if packet is _ATEN.native_dropout:
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        result = function(*args, **(kwargs or {}))
        return result.fill_(1) if packet in _DRAWS else result


def twin(network: nn.Module) -> nn.Module:
    """Copy a network but share its parameters, so that the copy takes little memory.

    Embeddings with ``max_norm`` scale their weight as they run, so that weight is copied.

    network: any network; running the twin changes nothing in it unless the forward pass writes into a parameter, which
        :func:`check_unwritten` refuses.

    Raises ValueError for a network that cannot be copied.

    >>> network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> other = twin(network)
    >>> other[0].weight is network[0].weight, other[1].running_mean is network[1].running_mean
    (True, False)
    """
    own = _scaled(network)
    return copied(network, {id(p): p for p in network.parameters() if id(p) not in own})


def check_unwritten(network: nn.Module, inputs: Tensor) -> None:
    """Raise ValueError if the forward pass writes into a parameter; a full copy of the network is run to find out.

    network: any network; it is left as it was. Errors in its forward pass are ignored, and so are the weights of
        embeddings with ``max_norm``.
    inputs: inputs that the network accepts.

    >>> check_unwritten(nn.Linear(2, 3), torch.zeros(1, 2))
    """
    whole, own = copied(network, {}), _scaled(network)
    for training in (False, True):
        with suppress(Exception):
            answers(whole, inputs, training=training)
    for (name, before), after in zip(network.named_parameters(), whole.parameters(), strict=True):
        if id(before) not in own and not torch.equal(before.nan_to_num(), after.nan_to_num()):
            raise ValueError(
                f"{type(network).__name__} writes into its parameter {name!r} when it runs: take that out of forward"
            )


def _scaled(network: nn.Module) -> set[int]:
    """``id`` of each weight that its embedding scales down as it runs."""
    embeddings = (m for m in network.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))
    return {id(m.weight) for m in embeddings if m.max_norm is not None}


def copied(network: nn.Module, instead: Mapping[int, Tensor]) -> nn.Module:
    """Copy a network, with some of its tensors replaced by others.

    network: any network; it is left as it was.
    instead: ``id`` of a parameter or buffer of the network -> the tensor that takes its place, which is not copied.

    Raises ValueError for a network that cannot be copied.

    >>> network = nn.Linear(2, 3)
    >>> copied(network, {id(network.bias): nn.Parameter(torch.ones(3))}).bias.tolist()
    [1.0, 1.0, 1.0]
    """
    try:
        return copy.deepcopy(network, dict(instead))
    except Exception as error:  # a module may hold anything
        why = str(error).split(". ")[0]
        raise ValueError(f"{type(network).__name__} cannot be copied: {why}") from error


def answers(network: nn.Module, inputs: Tensor, *, training: bool) -> list[Tensor]:
    """Run a network once in evaluation or training mode, without gradients, and return all tensors of its output.

    Dropout, stochastic depth and added noise give ones, so networks of different sizes can be compared. The global
    random states are the same before and after.

    network: any network; the run changes its modes and its state, so pass a :func:`twin`.
    inputs: inputs that the network accepts.
    training: whether all its modules are in training mode.

    Raises what the network raises.

    >>> network = nn.Sequential(nn.Dropout(0.5), nn.Flatten(0))
    >>> answers(network, torch.ones(2, 2), training=True)  # nothing is dropped; what is kept is scaled as usual
    [tensor([2., 2., 2., 2.])]
    """
    for module in network.modules():  # not train(), which the network may override to change weights
        module.training = training
    with undisturbed(inputs.device), torch.no_grad(), _Still():
        return list(tensors(network(inputs)))


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Draw the same random numbers inside every such block, and restore the global random states afterwards.

    device: its random state is fixed and restored too, besides the processor's.

    >>> with undisturbed(torch.device("cpu")):
    ...     first = torch.rand(1)
    >>> with undisturbed(torch.device("cpu")):
    ...     print(torch.rand(1) == first)
    tensor([True])
    """
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def tensors(output: Any) -> Iterator[Tensor]:
    """Yield all tensors in what a network returns: a tensor, or sequences, mappings and records of them.

    output: of any kind; whatever holds no tensor is skipped.

    >>> [tuple(value.shape) for value in tensors({"logits": torch.zeros(2, 3), "rest": (torch.zeros(2), None)})]
    [(2, 3), (2,)]
    """
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from tensors(value)
    elif hasattr(output, "__dict__"):
        yield from tensors(vars(output))
