"""What makes a binary layer: the sign and its gradient, weights made of signs, and a layer that reads signs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.weights import CompressedWeight

LAYERS = nn.Linear | nn.Conv2d  # the layers that can read signs
NORMS = nn.BatchNorm1d | nn.BatchNorm2d


class Sign(torch.autograd.Function):
    r"""sign(x), with sign(0) = +1. Its gradient is that of x where :math:`\lvert x \rvert \le` ``reach``, and 0 beyond.

    Called as ``Sign.apply(x, reach, shown)``.

    x: any shape, floats.
    reach: how far from 0 the gradient passes; 1 by default, ``torch.inf`` for everywhere.
    shown: a tensor of x's shape whose sign is taken instead of x's, for signs that are drawn at random; the gradient is
      still that of x. None by default.

    >>> x = torch.tensor([-2.0, -0.5, 0.0, 3.0], requires_grad=True)
    >>> Sign.apply(x).tolist()
    [-1.0, -1.0, 1.0, 1.0]
    >>> Sign.apply(x).sum().backward()
    >>> x.grad.tolist()
    [0.0, 1.0, 1.0, 0.0]
    """

    # method
    @staticmethod
    def forward(ctx: Any, x: Tensor, reach: float = 1.0, shown: Tensor | None = None) -> Tensor:
        ctx.reach = reach
        ctx.save_for_backward(x)
        x = x if shown is None else shown
        return x.sign().add_(0.5).sign_()  # 0 counts as positive; thirteen times as fast as torch.where

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        if ctx.reach == torch.inf:
            return gradient, None, None
        end = ctx.reach * (1 + torch.finfo(x.dtype).eps)  # the next float: hardtanh's gate excludes its ends
        return torch.ops.aten.hardtanh_backward(gradient, x, -end, end), None, None

    # end of method


class Activation(nn.Module):
    """The function through which a layer reads its input: it turns values into a sum of signs."""

    def bases(self) -> list[tuple[float, float]]:
        """(threshold t, factor b) of each term of the output, the sum of b · (+1 where x >= t, else -1)."""
        raise NotImplementedError


class SignActivation(Activation):
    """sign(x), for x of any shape. The gradient passes where |x| <= 1 (hubara2016bnn, equation 4)."""

    def forward(self, x: Tensor) -> Tensor:
        return Sign.apply(x)

    def bases(self) -> list[tuple[float, float]]:
        return [(0.0, 1.0)]


class BinaryForm(CompressedWeight):
    """A weight that is the sum of a few matrices of signs, each with one scale for each filter."""

    def bases(self, *stored: Tensor) -> tuple[Tensor, Tensor]:
        """Signs (M, *shape of the weight) of ±1 and scales (M, filters): the weight is the sum of scale · sign over M.

        stored: what the form stores, as ``forward`` takes it.
        """
        raise NotImplementedError


class Binarized(nn.Module):
    r"""A linear layer or 2-d convolution that reads signs: :math:`y = s \odot (a(\mathrm{norm}(x)) \ast W / s) + b`.

    The size s of a filter's weights is factored out of the sum. What is left are products of signs, so each sum is a
    whole number, exact in float32 up to 2^24: adding in another order, or counting bits, gives the same value.

    layer: holds W, usually in a binary form, and the bias b.
    activation: a, for example :class:`SignActivation`.
    norm: what comes before the activation; None (default): nothing. Batch norm before a linear layer has one mean and
      deviation for each feature, on the last axis, also of tokens (n, tokens, features).
    input_scale: a module whose value for norm(x) multiplies the sums; None (default): nothing does.

    Raises ValueError for a layer that is neither nn.Linear nor nn.Conv2d.

    >>> layer = Binarized(nn.Linear(3, 2, bias=False), SignActivation())
    >>> layer(torch.tensor([[0.5, -2.0, 9.0]])).equal(layer(torch.tensor([[1.0, -1.0, 1.0]])))
    True
    """

    def __init__(
        self,
        layer: nn.Module,
        activation: nn.Module,
        norm: nn.Module | None = None,
        input_scale: nn.Module | None = None,
    ) -> None:
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
        x = normalized(self.norm, x, linear=isinstance(self.layer, nn.Linear))
        weight = self.layer.weight
        size = filter_size(weight)
        sums = apply(self.layer, self.activation(x), weight / size)
        scale = None if self.input_scale is None else self.input_scale(x)
        axis = 1 if isinstance(self.layer, nn.Conv2d) else -1
        return rescaled(sums, size.flatten(), scale, self.layer.bias, axis)


def normalized(norm: nn.Module, x: Tensor, *, linear: bool) -> Tensor:
    """norm(x), for the input x of a layer.

    norm: any module. nn.BatchNorm1d would take the second axis of tokens for the features, so it gets tokens as rows.
    x: (n, channels, height, width), or (..., features) for a linear layer.
    linear: whether a linear layer reads x.
    """
    if linear and isinstance(norm, nn.BatchNorm1d) and x.dim() != 2:
        return norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)
    return norm(x)


def filter_size(weight: Tensor) -> Tensor:
    """The largest absolute weight of each filter, and 1 for a filter of zeros; a constant for the gradient.

    weight: (filters, ...).
    Returns (filters, 1, ...), to divide the weight by.
    """
    size = weight.detach().abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.dim() - 1))
    return torch.where(size > 0, size, torch.ones_like(size))


def apply(layer: nn.Linear | nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's linear map with another weight and without its bias.

    layer: says how to convolve: stride, padding, dilation, groups.
    x: the layer's input.
    weight: of the same shape as the layer's own.
    Returns the layer's output.
    """
    if isinstance(layer, nn.Linear):
        return functional.linear(x, weight)
    if layer.in_channels == 1:  # on some processors torch's kernels for one channel are wrong in channels last
        x, weight = (tensor.to(memory_format=torch.contiguous_format) for tensor in (x, weight))
    return layer._conv_forward(x, weight, None)


def rescaled(sums: Tensor, size: Tensor, scale: Tensor | None, bias: Tensor | None, axis: int) -> Tensor:
    """sums · size · scale + bias, computed in the memory of ``sums``: new memory costs more than the multiplication.

    sums: (n, filters, height, width) or (..., filters).
    size: (filters,).
    scale: a factor that fits the sums, or None for none.
    bias: (filters,), or None for none.
    axis: where the filters are, 1 (images) or -1 (rows).
    """
    shape = (-1, 1, 1) if axis == 1 else (-1,)
    sums = sums.mul_(size.reshape(shape))
    if scale is not None:
        sums = sums.mul_(scale)
    return sums if bias is None else sums.add_(bias.reshape(shape))
