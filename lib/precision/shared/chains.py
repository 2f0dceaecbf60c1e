"""Chains of layers that an embedded network can be made of, and how convolutions move over their maps."""

from collections.abc import Iterator
from typing import TypedDict

from torch import nn

KINDS = (nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d, nn.Tanh, nn.ReLU, nn.Flatten)


class Geometry(TypedDict):
    """How a convolution moves over its maps: down the rows, across the columns."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def geometry(layer: nn.Conv2d) -> Geometry:
    """How a convolution moves over its maps. Raises ValueError for a named padding such as "same"."""
    if isinstance(layer.padding, str):
        raise ValueError(f"padding must be numbers, not {layer.padding!r}")
    (sy, sx), (py, px), (dy, dx) = layer.stride, layer.padding, layer.dilation
    return Geometry(stride=(sy, sx), padding=(py, px), dilation=(dy, dx), groups=layer.groups)


def chain(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a chain in order, without those that do nothing.

    model: nn.Sequential, nested or not, of Linear, Conv2d padded with zeros, AvgPool2d(2), square MaxPool2d, Tanh,
        ReLU, Flatten, Dropout and Identity; or one such layer.

    Raises ValueError, which names it, for any other layer.

    >>> nested = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Dropout(), nn.Tanh()))
    >>> [type(layer).__name__ for layer in chain(nested)]
    ['Conv2d', 'Tanh']
    """
    yield from (layer for _, layer in named(model))


def named(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of :func:`chain`, each with its name and kind as a message shows them.

    model: as in :func:`chain`.
    name: of the model, put before the names of its layers; none by default.

    >>> [said for said, layer in named(nn.Sequential(nn.Tanh(), nn.Dropout(), nn.ReLU()))]
    ["layer '0', Tanh()", "layer '2', ReLU()"]
    """
    if isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        for child, layer in zip(model._modules, model, strict=True):  # a layer may occur twice
            yield from named(layer, f"{name}.{child}".lstrip("."))
        return
    plain = any(type(model).forward is kind.forward for kind in KINDS)  # a subclass may do something else
    accepted = plain and (
        isinstance(model, nn.Linear | nn.Tanh | nn.ReLU)
        or (isinstance(model, nn.Flatten) and (model.start_dim, model.end_dim) == (1, -1))
        or (isinstance(model, nn.Conv2d) and model.padding_mode == "zeros" and not isinstance(model.padding, str))
        or (
            isinstance(model, nn.AvgPool2d)
            and _square(model, 2)
            and (model.padding, model.divisor_override) == (0, None)
        )
        or (isinstance(model, nn.MaxPool2d) and _square(model) and model.dilation == 1 and not model.return_indices)
    )
    kind = type(model).__name__ if next(model.children(), None) else str(model)
    said = f"layer {name!r}, {kind}" if name else kind
    if accepted:
        yield said, model
    elif not isinstance(model, nn.Dropout | nn.Identity):
        raise ValueError(
            f"{said} cannot be computed in integers here: accepted are chains (nn.Sequential) of Linear, Conv2d"
            " padded with zeros, AvgPool2d(2), square MaxPool2d, Tanh, ReLU, Flatten and Dropout"
        )


def _square(pool: nn.AvgPool2d | nn.MaxPool2d, size: int | None = None) -> bool:
    side, stride = pool.kernel_size, pool.stride
    whole = all(isinstance(number, int) for number in (side, stride, pool.padding))
    return whole and not pool.ceil_mode and (size is None or side == stride == size)
