r"""Weights from the values of their buckets, and the gradient of the values: each in one pass over the weights.

With the bucket h(i) and the sign :math:`\xi(i)` of weight i,

.. math:: V_i = \xi(i)\, w_{h(i)}, \qquad
   \frac{\partial L}{\partial w_k} = \sum_{i:\, h(i) = k} \xi(i)\, \frac{\partial L}{\partial V_i}

(chen2015compressing, section 4). Both are linear, and each is the gradient of the other, so gradients of any order
come out. A *code* holds bucket and sign in one number, 2 h(i) where the sign is +1 and 2 h(i) + 1 where it is -1: the
place of the weight in the table :math:`w_0, -w_0, w_1, -w_1, \dots`, which is small and stays in the processor's cache.

numba compiles both passes for float32 and float64 on a CPU. torch computes them for all else.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from lib.hashing.shared import mixing

AT_ONCE = 2**15  # keys that are hashed together: what is computed in between stays in the cache
MOST = 2**30 - 1  # buckets: codes are int32
COMPILED = (torch.float32, torch.float64)


def codes(count: int, buckets: int, seed: int, *, signed: bool = True) -> Tensor:
    """Hash the numbers of the weights, 0 to ``count`` - 1, to codes.

    count: of the weights, 0 or more.
    buckets: K, from 1 to 2^30 - 1.
    seed: from 0 to 2^63 - 1.
    signed: whether half of the weights are minus the value of their bucket. Default True.

    Returns (count,) int32, from 0 to 2 K - 1. Raises ValueError for what is not accepted.

    >>> codes(6, buckets=2, seed=0).tolist(), codes(6, buckets=2, seed=0, signed=False).tolist()
    ([3, 0, 2, 1, 3, 0], [2, 0, 2, 0, 2, 0])
    """
    check_buckets(buckets)
    made = np.empty(count, dtype=np.int32)
    for start in range(0, count, AT_ONCE):
        part = made[start : start + AT_ONCE]
        # method
        keys = np.arange(start, start + len(part))  # i m + j at (i, j)
        part[:] = 2 * mixing.buckets(keys, buckets, seed)
        if signed:
            part += mixing.signs(keys, seed) < 0
        # end of method
    return torch.from_numpy(made)


def check_buckets(buckets: int) -> None:
    """Raise ValueError unless so many buckets can be looked up: a whole number from 1 to 2^30 - 1.

    buckets: what was given.

    >>> check_buckets(0)
    Traceback (most recent call last):
    ValueError: the number of buckets must be from 1 to 2^30 - 1, not 0
    """
    if not 1 <= buckets <= MOST:
        raise ValueError(f"the number of buckets must be from 1 to 2^30 - 1, not {buckets}")


def expanded(values: Tensor, codes: Tensor) -> Tensor:
    """Look up each weight: the value of its bucket, or minus this value.

    values: w, (K,) floats of any type.
    codes: (n,) int32 on the same device, from 0 to 2 K. 2 K stands for no bucket: that weight is zero.

    Returns V, (n,) of the type of the values; gradients of any order flow to the values.
    Raises ValueError for codes of another type, and, where the pass is compiled, for codes out of range.

    >>> expanded(torch.tensor([1.0, 5.0]), torch.tensor([0, 3, 3, 4], dtype=torch.int32))
    tensor([ 1., -5., -5.,  0.])
    """
    _check_type(codes)
    return _Expanded.apply(values, codes)


def collected(weights: Tensor, codes: Tensor, buckets: int) -> Tensor:
    """Add up in each bucket what belongs to its weights, each with its sign: the transpose of :func:`expanded`.

    Sums are taken in float64 where the pass is compiled, and elsewhere in float32 or the longer type of the weights.

    weights: (n,) floats of any type: the weights themselves, or their gradients.
    codes: (n,) int32 on the same device, from 0 to 2 K.
    buckets: K.

    Returns (K,) of the type of the weights; gradients of any order flow to the weights.
    Raises ValueError for codes of another type or number, and, where the pass is compiled, for codes out of range.

    >>> collected(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 3, 3, 4], dtype=torch.int32), buckets=2)
    tensor([ 1., -5.])
    """
    _check_type(codes)
    if weights.shape[-1:] != codes.shape:
        raise ValueError(f"there must be one code for each weight, not {len(codes)} for {tuple(weights.shape)} weights")
    return _Collected.apply(weights, codes, buckets)


def _check_type(codes: Tensor) -> None:
    if codes.dtype != torch.int32 or codes.dim() != 1:
        raise ValueError(f"codes must be (n,) int32, not {tuple(codes.shape)} {codes.dtype}")


class _Expanded(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor, codes: Tensor) -> Tensor:
        if not _compiles(values):
            pairs = torch.stack([values, -values], dim=-1).flatten(-2)  # w_0, -w_0, w_1, -w_1, ...
            return torch.nn.functional.pad(pairs, (0, 1)).index_select(-1, codes)
        weights = values.new_empty(codes.shape)
        look_up(values.detach().contiguous().numpy(), _unsigned(codes), weights.numpy())
        return weights

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.buckets = inputs[0].shape[-1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Collected.apply(gradient, *ctx.saved_tensors, ctx.buckets), None

    @staticmethod
    def vmap(info: Any, places: tuple[int, None], values: Tensor, codes: Tensor) -> tuple[Tensor, int]:
        return _Expanded.apply(values.movedim(places[0], 0), codes), 0


class _Collected(torch.autograd.Function):
    @staticmethod
    def forward(weights: Tensor, codes: Tensor, buckets: int) -> Tensor:
        if not _compiles(weights):
            exact = torch.promote_types(weights.dtype, torch.float32)
            pairs = weights.new_zeros((*weights.shape[:-1], 2 * buckets + 1), dtype=exact)
            pairs = pairs.index_add(-1, codes, weights.to(exact))[..., :-1].unflatten(-1, (buckets, 2))
            return (pairs[..., 0] - pairs[..., 1]).to(weights.dtype)
        sums = weights.new_empty(buckets)
        add_up(weights.detach().contiguous().numpy(), _unsigned(codes), sums.numpy())
        return sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Expanded.apply(gradient, *ctx.saved_tensors), None, None

    @staticmethod
    def vmap(
        info: Any, places: tuple[int, None, None], weights: Tensor, codes: Tensor, buckets: int
    ) -> tuple[Tensor, int]:
        return _Collected.apply(weights.movedim(places[0], 0), codes, buckets), 0


def _compiles(tensor: Tensor) -> bool:
    """Whether the compiled passes take a tensor: one batch, on a CPU."""
    return tensor.dim() == 1 and tensor.device.type == "cpu" and tensor.dtype in COMPILED


def _unsigned(codes: Tensor) -> np.ndarray:
    """Codes for the compiled passes, to which a negative one is large: one comparison finds all that are wrong."""
    return codes.contiguous().numpy().view(np.uint32)


@numba.njit(cache=True)
def look_up(values: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> None:
    """Write into ``weights`` (n,) what the ``codes`` (n,) uint32 say of the ``values`` (K,).

    ValueError for a code out of range.
    """
    # method
    pairs = np.zeros(2 * len(values) + 1, dtype=values.dtype)  # w_0, -w_0, ..., 0
    for k in range(len(values)):
        pairs[2 * k], pairs[2 * k + 1] = values[k], -values[k]
    for i in range(len(codes)):
        if codes[i] >= len(pairs):
            raise ValueError("a code is out of range: accepted are 0 to twice the number of buckets")
        weights[i] = pairs[codes[i]]  # V_i = xi(i) w_h(i)
    # end of method


@numba.njit(cache=True)
def add_up(weights: np.ndarray, codes: np.ndarray, sums: np.ndarray) -> None:
    """Write into ``sums`` (K,) the ``weights`` (n,) of each bucket, with their signs, as the ``codes`` (n,) uint32 say.

    ValueError for a code out of range.
    """
    # method
    pairs = np.zeros(2 * len(sums) + 1)  # float64
    for i in range(len(codes)):
        if codes[i] >= len(pairs):
            raise ValueError("a code is out of range: accepted are 0 to twice the number of buckets")
        pairs[codes[i]] += weights[i]
    for k in range(len(sums)):
        sums[k] = pairs[2 * k] - pairs[2 * k + 1]  # those of +1, minus those of -1
    # end of method
