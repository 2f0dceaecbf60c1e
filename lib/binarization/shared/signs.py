"""What the methods of this section share: the sign and its gradient, weights of signs, a layer that reads signs."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.weights import CompressedWeight, compressed_form, layers, replace

LAYERS = nn.Linear | nn.Conv2d
NORMS = nn.BatchNorm1d | nn.BatchNorm2d
EPSILON = 1e-4  # of batch norm, as in the code of courbariaux2015binaryconnect


class Sign(torch.autograd.Function):
    r"""sign(x) with sign(0) = +1. The gradient passes where :math:`\lvert x \rvert \le` ``reach``, as if sign were x.

    shown: take the sign of this instead, for a sign that is drawn; the gradient is still that of x.
    """

    @staticmethod
    def forward(ctx, x: Tensor, reach: float = 1.0, shown: Tensor | None = None) -> Tensor:
        ctx.reach = reach
        ctx.save_for_backward(x)
        x = x if shown is None else shown
        return x.sign().add_(0.5).sign_()  # 0 counts as positive; thirteen times as fast as torch.where

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        if ctx.reach == torch.inf:
            return gradient, None, None
        end = ctx.reach * (1 + torch.finfo(x.dtype).eps)  # the next float: the gate of hard tanh leaves its ends out
        return torch.ops.aten.hardtanh_backward(gradient, x, -end, end), None, None


class SignActivation(nn.Module):
    """sign(x); the gradient passes where |x| <= 1 (hubara2016bnn, equation 4)."""

    def forward(self, x: Tensor) -> Tensor:
        return Sign.apply(x)

    def bases(self) -> list[tuple[float, float]]:
        """(threshold t, factor b) of each term of the output, sum of b · (+1 where x >= t, else -1)."""
        return [(0.0, 1.0)]


class BinaryForm(CompressedWeight):
    """A weight that is a sum of few matrices of signs, each with a scale for each filter."""

    def bases(self, *stored: Tensor) -> tuple[Tensor, Tensor]:
        """Signs (M, *weight's shape) of ±1, scales (M, filters): the weight is the sum over M of scale · sign."""
        raise NotImplementedError


class Binarized(nn.Module):
    r"""A linear layer or 2-d convolution that reads signs: :math:`y = s \odot (a(\mathrm{norm}(x)) \ast W / s) + b`.

    layer: holds W, as a rule in a binary form, and b. activation: a, such as :class:`SignActivation`.
    norm: what comes before it, or None. input_scale: a module whose value for norm(x) multiplies the sums, or None.

    The size s of a filter's weights is taken out of the sum, so that signs meet signs and each sum is a whole number,
    exact in float32 up to 2^24: another order of adding, or counting bits, gives the very same value.
    """

    def __init__(
        self,
        layer: nn.Module,
        activation: nn.Module,
        norm: nn.Module | None = None,
        input_scale: nn.Module | None = None,
    ):
        super().__init__()
        if not isinstance(layer, LAYERS):
            raise ValueError(f"a {type(layer).__name__} cannot read signs: accepted are Linear and Conv2d layers")
        self.norm = nn.Identity() if norm is None else norm
        self.activation, self.layer, self.input_scale = activation, layer, input_scale

    @property
    def computes(self) -> nn.Module:
        """The layer whose multiply-adds this module does."""
        return self.layer

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        weight = self.layer.weight
        size = filter_size(weight)
        sums = apply(self.layer, self.activation(x), weight / size)
        scale = None if self.input_scale is None else self.input_scale(x)
        axis = 1 if isinstance(self.layer, nn.Conv2d) else -1
        return rescaled(sums, size.flatten(), scale, self.layer.bias, axis)


def filter_size(weight: Tensor) -> Tensor:
    """The largest absolute weight of each filter, (filters, 1, ...), a constant for the gradient; 1 where all are 0."""
    size = weight.detach().abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.dim() - 1))
    return torch.where(size > 0, size, torch.ones_like(size))


def apply(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's linear map with another weight and without bias."""
    if isinstance(layer, nn.Linear):
        return functional.linear(x, weight)
    if layer.in_channels == 1:  # on some processors torch's kernels for one channel are wrong in channels last
        x, weight = (each.to(memory_format=torch.contiguous_format) for each in (x, weight))
    return layer._conv_forward(x, weight, None)


def rescaled(sums: Tensor, size: Tensor, scale: Tensor | None, bias: Tensor | None, axis: int) -> Tensor:
    """Sums times the size (filters,) of each filter, which stand along ``axis``, times ``scale``, plus the bias.

    In place: fresh memory for a large output costs more than the multiplication.
    """
    shape = (-1, 1, 1) if axis == 1 else (-1,)
    sums = sums.mul_(size.reshape(shape))
    if scale is not None:
        sums = sums.mul_(scale)
    return sums if bias is None else sums.add_(bias.reshape(shape))


def norm_before(layer: nn.Module) -> nn.Module:
    """Batch norm for what a layer reads."""
    if isinstance(layer, nn.Linear):
        return nn.BatchNorm1d(layer.in_features, eps=EPSILON)
    return nn.BatchNorm2d(layer.in_channels, eps=EPSILON)


def inner(model: nn.Module) -> list[str]:
    """The layers that read signs in most of the literature: all linear and 2-d ones but the first and the last."""
    return [name for name, layer in layers(model) if isinstance(layer, LAYERS)][1:-1]


def chosen(model: nn.Module, names: Collection[str] | None) -> list[str]:
    """The names, checked: each a linear or 2-d layer that does not read signs yet; None: :func:`inner`'s."""
    found = {name: layer for name, layer in layers(model) if isinstance(layer, LAYERS)}
    taken = {f"{name}.layer".lstrip(".") for name, module in model.named_modules() if isinstance(module, Binarized)}
    for name in names or ():
        if name not in found or name in taken:
            free = ", ".join(each for each in found if each not in taken)
            raise ValueError(f"no layer {name!r} to binarize: accepted are {free or 'none'}")
    names = inner(model) if names is None else list(dict.fromkeys(names))
    if not names or taken & set(names):
        raise ValueError(
            f"{type(model).__name__} has no layer to binarize: at least one linear or 2-d convolution layer that reads"
            " no signs yet is needed, not counting the first and the last unless they are named"
        )
    return names


def read_signs(model: nn.Module, names: Collection[str], make: Callable[[nn.Module], Binarized]) -> nn.Module:
    """Put ``make(layer)`` in the place of each named layer. In place; returns the model."""
    for name in names:
        model = replace(model, name, make(model.get_submodule(name)))
    return model


def read_activations(model: nn.Module, names: Collection[str], activation: Callable[[], nn.Module]) -> nn.Module:
    """Let the named layers read what ``activation()`` makes of their input. In place; returns the model.

    The ReLU modules that stand before them go: behind one, a sign would always be +1. A network without batch norm of
    its own gets one before each activation.
    """
    ours = {module.norm for module in model.modules() if isinstance(module, Binarized)}  # of a call before
    own = any(isinstance(module, NORMS) for module in model.modules() if module not in ours)
    rectifiers, waiting = [], []
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
    for module in model.modules():  # not layers(): it would compute, and draw, every weight anew
        form = compressed_form(module)
        if form is not None and hasattr(form[0], "clip"):
            form[0].clip(*form[1])
