"""How a network gets binary layers: which layers are chosen, what comes before them, and limits that training keeps."""

from collections.abc import Callable, Collection

from torch import nn

from lib.binarization.shared.signs import LAYERS, NORMS, Binarized
from lib.weights import compressed, layers, replace

EPSILON = 1e-4  # of batch norm, as in the code of courbariaux2015binaryconnect


def norm_before(layer: nn.Module) -> nn.BatchNorm1d | nn.BatchNorm2d:
    """A new batch norm for what a layer reads.

    layer: nn.Linear or nn.Conv2d; ValueError for another.
    """
    if isinstance(layer, nn.Linear):
        return nn.BatchNorm1d(layer.in_features, eps=EPSILON)
    if isinstance(layer, nn.Conv2d):
        return nn.BatchNorm2d(layer.in_channels, eps=EPSILON)
    raise ValueError(f"layer must be a Linear or a Conv2d layer, not {type(layer).__name__}")


def inner(model: nn.Module) -> list[str]:
    """Names of all linear and 2-d convolution layers but the first and the last: those that usually read signs.

    >>> from lib import models
    >>> inner(models.lenet5())
    ['conv2', 'fc1']
    """
    return [name for name, layer in layers(model) if isinstance(layer, LAYERS)][1:-1]


def chosen(model: nn.Module, names: Collection[str] | None) -> list[str]:
    """Names of the layers to binarize, checked and without duplicates.

    model: whose layers they are.
    names: linear or 2-d convolution layers that do not read signs yet; None: what :func:`inner` gives.
    Raises ValueError for any other name, and where no layer is left.
    """
    candidates = {name: layer for name, layer in layers(model) if isinstance(layer, LAYERS)}
    taken = {f"{name}.layer".lstrip(".") for name, module in model.named_modules() if isinstance(module, Binarized)}
    for name in names or ():
        if name not in candidates or name in taken:
            free = ", ".join(candidate for candidate in candidates if candidate not in taken)
            raise ValueError(f"no layer {name!r} to binarize: accepted are {free or 'none'}")
    names = inner(model) if names is None else list(dict.fromkeys(names))
    if not names or taken & set(names):
        raise ValueError(
            f"{type(model).__name__} has no layer to binarize: at least one linear or 2-d convolution layer that reads"
            " no signs yet is needed, not counting the first and the last unless they are named"
        )
    return names


def readable(model: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    """The layer called ``name``, which must be one that can read signs.

    Unlike :func:`lib.weights.layer_named` it reads no weight, so that stochastic forms draw nothing.
    Raises ValueError for a layer of another type.
    """
    layer = model.get_submodule(name)
    if not isinstance(layer, LAYERS):
        raise ValueError(f"layer {name!r} must be a Linear or a Conv2d layer, not {type(layer).__name__}")
    return layer


def read_signs(
    model: nn.Module, names: Collection[str], make: Callable[[nn.Linear | nn.Conv2d], Binarized]
) -> nn.Module:
    """Replace each named layer by ``make(layer)``. In place.

    Returns the model to use from now on: another one than that given only where the model is itself the layer.
    """
    for name in names:
        model = replace(model, name, make(readable(model, name)))
    return model


def read_activations(model: nn.Module, names: Collection[str], activation: Callable[[], nn.Module]) -> nn.Module:
    """Let the named layers read activations such as signs. In place.

    ReLU modules before these layers are removed: after one, a sign would always be +1. A network without batch norm of
    its own gets one before each activation.

    model: the network.
    names: of linear and 2-d convolution layers.
    activation: makes a new one for each layer, for example
      :class:`lib.binarization.shared.signs.SignActivation`.
    Returns the model to use from now on.
    """
    ours = {module.norm for module in model.modules() if isinstance(module, Binarized)}  # of a call before
    own = any(isinstance(module, NORMS) for module in model.modules() if module not in ours)
    rectifiers: list[str] = []
    waiting: list[str] = []
    for name, module in model.named_modules():  # in the order in which they are listed
        if isinstance(module, nn.ReLU):
            waiting.append(name)
        elif isinstance(module, LAYERS):
            rectifiers, waiting = rectifiers + waiting * (name in names), []
    for name in rectifiers:
        model = replace(model, name, nn.Identity())
    return read_signs(model, names, lambda layer: Binarized(layer, activation(), None if own else norm_before(layer)))


def clip(model: nn.Module) -> None:
    """Bring the latent weights of every form that has limits back between them, after an update. In place."""
    for _, form, stored in compressed(model):  # not layers(): it would compute, and draw, every weight again
        clip_form = getattr(form, "clip", None)
        if clip_form is not None:
            clip_form(*stored)
