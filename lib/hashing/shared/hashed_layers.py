r"""Run a trained HashedNet on kernels that look up each weight when they need it, with the same answers.

:func:`convert` replaces each hashed ``nn.Linear`` by a :class:`HashedLinear`. In training, a hashed layer writes its
whole matrix in each forward pass, and reads 4 bytes per weight. This one reads 2 bytes and a bit per weight, and writes
no matrix for a few inputs (:mod:`lib.hashing.shared.lookup_kernels`). It adds in another order, so answers agree up to
rounding. It cannot be trained. Convolutions, embeddings, attention and recurrent layers stay as they are and write
their matrix as before.

A dense copy, from :func:`lib.weights.decompress`, is faster still, and takes twice the memory.
"""

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from lib import owners
from lib.hashing.hashed_nets import HashedWeight
from lib.hashing.shared import lookup_kernels
from lib.weights import PackedWeight, compressed_form, layers, replace, weight_named

MANY = 17  # inputs from which writing the matrix once is about as fast: measured, see benchmarks/hashing.py


class HashedLinear(nn.Module):
    """A hashed linear layer for inference, which writes no matrix for a few inputs.

    Its buffers are arranged for the kernels: the values and a zero, (K + 1,); the number of each weight's value, in 16
    bits if they suffice, otherwise in 32; signs in a bit each; and the bias, zero if the layer has none.

    layer: hashed, with weights of float32 or float64 on the CPU.

    Raises ValueError for other weights; and, when it runs, for inputs that do not fit, for buffers that were moved to
    another device or type, and for numbers that were loaded and name no value.

    >>> from lib.hashing import hashed_nets
    >>> layer, x = hashed_nets.compress(nn.Linear(784, 100)), torch.rand(1, 784)
    >>> torch.allclose(HashedLinear(layer)(x), layer(x), atol=1e-5)
    True
    """

    values: Tensor
    places: Tensor
    signs: Tensor
    bias: Tensor

    @torch.inference_mode(False)  # a tensor of inference mode does not tell when it is changed
    @torch.no_grad()
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        form, (values,) = compressed_form(layer) or (None, (layer.weight,))
        if not isinstance(form, HashedWeight):
            raise ValueError(f"it is no hashed nn.Linear, but {_kind(layer)}")
        self.inputs, self.outputs = layer.in_features, layer.out_features
        self._check_type(values)
        held = lookup_kernels.arrange(values, form.codes, (self.outputs, self.inputs), layer.bias)
        for name, tensor in zip(("values", "places", "signs", "bias"), held, strict=True):
            self.register_buffer(name, tensor)
        self.kept: tuple[object, lookup_kernels.Arrays] | None = None
        self.dtype = values.dtype
        self.eval()

    def extra_repr(self) -> str:
        return f"{self.inputs} inputs, {self.outputs} outputs, {len(self.values) - 1} values"

    def forward(self, x: Tensor) -> Tensor:
        weight = self._arrays()
        if x.dtype != self.dtype or x.dim() == 0 or x.shape[-1] != self.inputs or not x.is_cpu:
            raise ValueError(
                f"inputs {tuple(x.shape)} of {x.dtype} on {x.device.type} do not fit: accepted are {self.dtype} and"
                f" (..., {self.inputs}) on the CPU"
            )
        samples = x if x.dim() == 2 else x.reshape(-1, self.inputs)
        if len(samples) >= MANY or (x.requires_grad and torch.is_grad_enabled()):
            sums = functional.linear(samples, lookup_kernels.matrix(weight, self.outputs), self.bias[: self.outputs])
        else:
            sums = lookup_kernels.product(samples, weight, self.outputs)
        return sums if x.dim() == 2 else sums.reshape(*x.shape[:-1], self.outputs)

    def _arrays(self) -> lookup_kernels.Arrays:
        """The buffers as the kernels read them, checked again when one has changed."""
        state = [tensor for tensor in self._buffers.values() if tensor is not None]
        key = [(tensor.data_ptr(), tensor._version) for tensor in state]
        if self.kept is None or self.kept[0] != key:
            self._check_type(self.values)
            self.kept = key, lookup_kernels.arrays(*state)
            self.dtype = self.values.dtype
        return self.kept[1]

    def _check_type(self, values: Tensor) -> None:
        if values.dtype not in lookup_kernels.TYPES or values.device.type != "cpu":
            raise ValueError(
                f"the kernels of a hashed layer take torch.float32 and torch.float64 on the CPU, not {values.dtype} on"
                f" {values.device.type}: move or cast the network before it is converted, or decompress it"
            )


def convert(model: nn.Module, *, names: Collection[str] | None = None) -> nn.Module:
    """Return a copy of the network, in evaluation mode, whose hashed linear layers look weights up as needed.

    model: trained, with layers that :mod:`lib.hashing.hashed_nets` hashed. It stays as it is.
    names: of the layers to convert; None (default): all that can be. Others stay as they are.

    Returns the copy. Raises ValueError, by name, for a named layer that is no hashed ``nn.Linear``, has hooks or a
    forward pass of its own, or is read by its owner instead of called, as by attention; for weights on another device
    or of another type than float32 and float64; and for a network without a layer to convert.

    >>> from lib import models
    >>> from lib.hashing import hashed_nets
    >>> model, images = hashed_nets.compress(models.lenet_300_100()), torch.rand(2, 1, 28, 28)
    >>> torch.allclose(convert(model)(images), model(images), atol=1e-5)
    True
    """
    for name in names or ():
        weight_named(model, name)
    found = dict(layers(model))
    wrong = {name: why for name, layer in found.items() if (why := _why_not(model, name, layer))}
    chosen = [name for name in found if name not in wrong] if names is None else list(dict.fromkeys(names))
    if not chosen:
        raise ValueError(f"there is no hashed linear layer to convert in {type(model).__name__}, or none was named")
    for name in chosen:
        if name in wrong:
            raise ValueError(f"layer {name!r} cannot be converted: {wrong[name]}")
    model = copy.deepcopy(model).eval()
    made = {}
    for name in chosen:
        layer: Any = model.get_submodule(name)
        try:
            made[name] = HashedLinear(layer)
        except ValueError as error:
            raise ValueError(f"layer {name!r} cannot be converted: {error}" if name else str(error)) from error
    for name, replacement in made.items():
        model = replace(model, name, replacement)
    return model


def _why_not(model: nn.Module, name: str, layer: nn.Module | PackedWeight) -> str:
    """Why a layer of the network cannot be converted; "" where it can, as far as its kind says."""
    if isinstance(layer, PackedWeight) or not isinstance(layer, nn.Linear) or not _is_hashed(layer):
        return f"it is no hashed nn.Linear, but {_kind(layer)}"
    if (
        getattr(type(layer), "forward", None) is not nn.Linear.forward
    ):  # torch's class with parametrizations inherits it
        return f"{_kind(layer)} has a forward pass of its own"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has hooks, which would be lost"
    for attribute, owner in owners.reads(model, name).items():
        return f"{owner} reads its {attribute} instead of calling it"
    return ""


def _is_hashed(layer: nn.Module) -> bool:
    try:
        found = compressed_form(layer)
    except ValueError:
        return False  # another parametrization
    return found is not None and isinstance(found[0], HashedWeight)


def _kind(layer: nn.Module | PackedWeight) -> str:
    if isinstance(layer, PackedWeight):
        return f"a part of {_kind(layer.module)}"
    return parametrize.type_before_parametrizations(layer).__name__
