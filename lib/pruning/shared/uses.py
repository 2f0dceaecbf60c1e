"""What layers read and answer in a forward pass: each call, and which axis counts the samples."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib import running, weights
from lib.pruning.shared.per_sample import CONVOLUTIONS, LINEAR
from lib.weights import Layer


@dataclass(frozen=True)
class Use:
    """One call of a layer in a forward pass: what it read, and its output as part of the graph."""

    name: str
    inputs: Tensor
    output: Tensor


def watchable(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, Layer]:
    """Find the layers with a weight whose calls can be watched.

    model: any network.
    names: of the layers to take; None takes all that have a weight.

    Returns layer name -> layer, at least one.
    Raises ValueError for a layer that does not exist, a weight that its module uses without calling a layer
    (attention's ``in_proj_weight``, those of an LSTM), and a model that has no layer with a weight.

    >>> list(watchable(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), ["2"]))
    ['2']
    """
    there: dict[str, Any] = dict(weights.layers(model))
    if not there:
        raise ValueError(f"{type(model).__name__} has no layer with a weight: there is nothing to prune")
    names = list(there if names is None else names)
    if not names:
        raise ValueError(f"layers must name one layer or more, of {', '.join(there)}")
    for name in names:
        if name not in there:
            raise ValueError(f"{type(model).__name__} has no layer {name!r} with a weight: it has {', '.join(there)}")
        if not isinstance(there[name], nn.Module):
            raise ValueError(
                f"weight {name!r} belongs to no layer that is called: its module computes with it alone, so what it is"
                " multiplied with cannot be seen; name the layers to work on, without this one"
            )
    return {name: there[name] for name in names}


@contextmanager
def recorded(layers: Mapping[str, Layer]) -> Iterator[list[Use]]:
    """Keep each call of the layers: inside the block, every forward pass appends to the list.

    layers: layer name -> layer, as :func:`watchable` returns them.

    Raises ValueError, in the forward pass, for a layer that reads or returns anything but one tensor.
    """
    uses: list[Use] = []

    def keeper(name: str) -> Callable[..., Tensor]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], by_name: dict[str, Any], output: Any) -> Tensor:
            read = [*inputs, *by_name.values()]
            if len(read) != 1 or not isinstance(read[0], Tensor) or not isinstance(output, Tensor):
                raise ValueError(
                    f"layer {name!r}, {type(layer).__name__}, must read one tensor and answer with one:"
                    " name the layers to work on, without this one"
                )
            uses.append(Use(name, read[0].detach(), output))
            return output.clone()  # a ReLU in place after it must not overwrite the layer's output

        return hook

    handles = [layer.register_forward_hook(keeper(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


def check(layers: Mapping[str, Layer], uses: Sequence[Use], logits: Tensor) -> None:
    """Raise ValueError unless the logits depend on the layers' weights through these uses only.

    layers: layer name -> layer.
    uses: of one forward pass.
    logits: its answers, with their graph.
    """
    running.check_ran(layers, {use.name for use in uses})
    called = Counter(use.name for use in uses)
    reads = Counter(_nodes_read(logits))
    for name, layer in layers.items():
        if reads[torch.autograd.graph.get_gradient_edge(layer.weight).node] > called[name]:
            raise ValueError(
                f"the weight of layer {name!r} is also read outside of the layer, or shared with another one:"
                " give each its own first, or name the layers to work on, without this one"
            )
    for use in uses:
        if not use.output.requires_grad:
            raise ValueError(f"layer {use.name!r} runs without gradients: its forward pass must keep the graph")


def _nodes_read(logits: Tensor) -> Iterator[Any]:
    """The nodes of the graph of the logits, each as often as another one reads from it."""
    waiting, seen = [logits.grad_fn], {logits.grad_fn}
    while waiting:
        node: Any = waiting.pop()
        for before in (edge[0] for edge in node.next_functions if edge[0] is not None):
            yield before
            if before not in seen:
                seen.add(before)
                waiting.append(before)


def sample_axes(model: nn.Module, layers: Mapping[str, Layer], uses: Sequence[Use], batch: Tensor) -> list[int | None]:
    """Tell for each use which axis of its tensors counts the samples: sequences often have it second.

    model: the network.
    layers: its layers that were watched.
    uses: of the forward pass of the batch.
    batch: the images of this pass.

    Returns one axis for each use; None if the whole tensor belongs to the only sample.
    Raises ValueError if no axis, or more than one, counts the samples.
    """
    n = len(batch)
    if all(_is_plain(layers[use.name], use.inputs) and len(use.inputs) == n for use in uses):
        return [0 for _ in uses]
    with torch.no_grad(), recorded(layers) as of_one:
        running.logits(model, batch[:1])
    same = [use.name for use in of_one] == [use.name for use in uses]
    axes: list[int | None] = []
    for use, one in zip(uses, of_one if same else uses, strict=True):
        shape, single = use.inputs.shape, one.inputs.shape
        forward = type(layers[use.name]).forward
        known = forward in (LINEAR, nn.Embedding.forward)  # they change no axis but the last
        found = [a for a in range(len(shape)) if shape[a] == n and single == (*shape[:a], 1, *shape[a + 1 :])]
        if forward in CONVOLUTIONS and len(shape) != layers[use.name].weight.dim():
            found = []  # without an axis for the samples
        if n == 1 and known:
            axes.append(None)
        elif (n == 1 and 0 in found) or (len(found) == 1 and (known or found == [0])):
            axes.append(found[0])
        else:
            raise ValueError(
                f"layer {use.name!r} reads shape {tuple(shape)} for {n} samples: one axis must count the samples, the"
                " first one unless the layer is linear; name the layers to work on, without this one"
            )
    return axes


def _is_plain(layer: Layer, inputs: Tensor) -> bool:
    """Whether the first axis counts the samples if it is as long as there are samples."""
    return inputs.dim() == (layer.weight.dim() if type(layer).forward in (LINEAR, *CONVOLUTIONS) else 0)


def by_sample(
    name: str, uses: Sequence[Use], deltas: Sequence[Tensor | None], axes: Sequence[int | None]
) -> list[tuple[Tensor, Tensor]]:
    """Return what a layer read and the derivative with respect to its output, for each use, samples first in both.

    name: of the layer.
    uses: of a forward pass.
    deltas: the derivatives with respect to the outputs of all uses; None if nothing depends on an output.
    axes: which axis counts the samples, as :func:`sample_axes` returns it.
    """

    def first(x: Tensor, axis: int | None) -> Tensor:
        return x[None] if axis is None else x.movedim(axis, 0)

    return [
        (first(use.inputs, axis), first(delta, axis))
        for use, delta, axis in zip(uses, deltas, axes, strict=True)
        if use.name == name and delta is not None
    ]
