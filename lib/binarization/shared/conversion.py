"""How a network gets binary layers: which layers are chosen, what comes before them, and limits that training keeps."""

from collections.abc import Callable, Collection
from typing import TypeVar

from torch import nn

from lib.binarization.shared.signs import LAYERS, Binarized
from lib.weights import compressed, layers, replace

Module = TypeVar("Module", bound=nn.Module)
EPSILON = 1e-4  # of batch norm, as in the code of courbariaux2015binaryconnect


def norm_before(layer: nn.Module) -> nn.BatchNorm1d | nn.BatchNorm2d:
    """A new batch norm for the input of a layer, with the layer's dtype, device and mode.

    layer: nn.Linear or nn.Conv2d; ValueError for another.
    """
    if isinstance(layer, nn.Linear):
        return like(layer, nn.BatchNorm1d(layer.in_features, eps=EPSILON))
    if isinstance(layer, nn.Conv2d):
        return like(layer, nn.BatchNorm2d(layer.in_channels, eps=EPSILON))
    raise ValueError(f"layer must be a Linear or a Conv2d layer, not {type(layer).__name__}")


def like(model: nn.Module, new: Module) -> Module:
    """Give a new module the dtype and device of a model's parameters, and the model's mode. In place; returns it.

    model: if it has no parameters, only its mode counts.
    new: a module with parameters of any type.

    >>> like(nn.Linear(2, 2).double().eval(), nn.BatchNorm1d(2)).weight.dtype
    torch.float64
    """
    # Parameters, not the weight: reading a stochastic weight would draw it.
    own = next((p for p in reversed(list(model.parameters())) if p.is_floating_point()), None)
    return (new if own is None else new.to(own.device, own.dtype)).train(model.training)


def closed(model: nn.Module, classes: int | None) -> nn.Module:
    """The network with a batch norm for its output; unchanged if ``classes``, the width of the output, is None."""
    if classes is None:
        return model
    network = nn.Sequential(model, like(model, nn.BatchNorm1d(classes, eps=EPSILON)))
    network.training = model.training
    return network


def check_classes(classes: int | None) -> None:
    """Raise ValueError unless the width of the output is None or 1 or more."""
    if classes is not None and classes < 1:
        raise ValueError(f"classes, the width of the output, must be 1 or more, not {classes}")


def inner(model: nn.Module) -> list[str]:
    """Names of all linear and 2-d convolution layers but the first and the last: those that usually read signs.

    >>> from lib import models
    >>> inner(models.lenet5())
    ['conv2', 'fc1']
    """
    return [name for name, layer in layers(model) if isinstance(layer, LAYERS)][1:-1]


def chosen(model: nn.Module, names: Collection[str] | None) -> list[str]:
    """Names of the layers to binarize, checked and without duplicates.

    model: the network.
    names: linear or 2-d convolution layers that do not read signs yet; None: those of :func:`inner`.
    Raises ValueError for any other name, and if no layer is left.
    """
    accepted = free(model, names or ())
    names = inner(model) if names is None else list(dict.fromkeys(names))
    if not names or set(names) - set(accepted):
        raise none_left(model)
    return names


def free(model: nn.Module, names: Collection[str] = ()) -> list[str]:
    """The linear and 2-d convolution layers that read no signs yet.

    model: the network.
    names: to check: ValueError unless all of them are among these layers; none by default.
    """
    taken = {f"{name}.layer".lstrip(".") for name, module in model.named_modules() if isinstance(module, Binarized)}
    accepted = [name for name, layer in layers(model) if isinstance(layer, LAYERS) and name not in taken]
    for name in names:
        if name not in accepted:
            raise ValueError(f"no layer {name!r} to binarize: accepted are {', '.join(accepted) or 'none'}")
    return accepted


def none_left(model: nn.Module) -> ValueError:
    """The error to raise if no layer is left to binarize."""
    return ValueError(
        f"{type(model).__name__} has no layer to binarize: at least one linear or 2-d convolution layer that reads"
        " no signs yet is needed, not counting the first and the last unless they are named"
    )


def readable(model: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    """The layer called ``name``, checked to be one that can read signs.

    Unlike :func:`lib.weights.layer_named` it reads no weight, so that stochastic forms draw nothing.
    Raises ValueError for a layer of another type, with a forward pass of its own, or with hooks.
    """
    layer = model.get_submodule(name)
    if not isinstance(layer, LAYERS):
        raise ValueError(f"layer {name!r} must be a Linear or a Conv2d layer, not {type(layer).__name__}")
    if not plain(layer):
        raise ValueError(
            f"layer {name!r} is a {type(layer).__name__} with a forward pass or hooks of its own, which would be lost:"
            " accepted are plain Linear and Conv2d layers"
        )
    return layer


def plain(layer: nn.Module) -> bool:
    """Whether a layer computes as torch's Linear and Conv2d layers do, and nothing else."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    return type(layer).forward in (nn.Linear.forward, nn.Conv2d.forward) and not hooked


def read_signs(
    model: nn.Module, names: Collection[str], make: Callable[[str, nn.Linear | nn.Conv2d], Binarized]
) -> nn.Module:
    """Replace each named layer by ``make(name, layer)``, in the layer's type, device and mode. In place.

    Returns the model to use from now on: the given one, unless the model is itself the layer.
    """
    for name in names:
        layer = readable(model, name)
        made = make(name, layer)
        like(layer, made.activation)
        model = replace(model, name, made.train(layer.training))
    return model


def clip(model: nn.Module) -> None:
    """Clip the latent weights of every form that has limits, after an update. In place."""
    for _, form, stored in compressed(model):  # not layers(): it would compute, and draw, every weight again
        clip_form = getattr(form, "clip", None)
        if clip_form is not None:
            clip_form(*stored)
