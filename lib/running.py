"""What flows through a network: the inputs and outputs of chosen layers while it runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass
class Flow:
    """Layer name -> its first input and its output in the last forward pass, with their gradients' graph."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def captured(model: nn.Module, names: Iterable[str]) -> Iterator[Flow]:
    """Inside, every forward pass of the model leaves what flows through the named layers in the :class:`Flow`.

    Raises ValueError for a layer that the model does not have.
    """
    layers = dict(model.named_modules())
    flow, hooks = Flow(), []
    names = list(names)
    for name in names:
        if name not in layers:
            raise ValueError(f"{type(model).__name__} has no layer {name!r}: it has {', '.join(filter(None, layers))}")

    def keeper(name: str):
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            flow.inputs[name], flow.outputs[name] = inputs[0], output

        return hook

    try:
        hooks += [layers[name].register_forward_hook(keeper(name)) for name in names]
        yield flow
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, the model is in evaluation mode; behind, every module is in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode
