r"""Products of a hashed matrix with a few inputs: each weight is looked up where it is needed, no matrix is written.

.. math:: y_i = \sum_j \xi(i, j)\, w_{h(i, j)}\, x_j

(chen2015compressing, section 4). The time goes into the look-ups, so they are made cheap. Weights lie in groups of 32
rows, and a group goes through the inputs in turn: its 32 numbers of buckets come in eight words of 64 bits, one load of
each value fills a vector, one word of 32 bits holds the signs, and one input multiplies all. The table holds each value
once, without its negative, so that it stays in the processor's fastest cache as long as possible. A number of a bucket
takes 16 bits where they suffice, half of what a float32 weight takes.

numba's own loops cannot do this: they either gather, which many processors do slowly, or load a sign for each weight.
So the inner loop is written in LLVM's intermediate representation, which LLVM turns into the vectors that the processor
has. Eight inputs share a look-up; where many share it, :func:`matrix` writes the whole matrix once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic
from torch import Tensor

LANES = 32  # rows of a group
SAMPLES = 8  # that share a look-up
GAP = 16  # floats after each row of the matrix: rows a power of two apart would fall on the same lines of the cache
TYPES = (torch.float32, torch.float64)
INT, LONG = ir.IntType(32), ir.IntType(64)


def arrange(
    values: Tensor, codes: Tensor, shape: tuple[int, int], bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Put a hashed matrix into the order in which the kernels read it.

    values: w, (K,) floats.
    codes: (outputs · inputs,) int32, from 0 to 2 K, as in :mod:`lib.hashing.shared.lookup`.
    shape: outputs and inputs.
    bias: (outputs,); None (default) adds nothing.

    Returns the values with a zero after them, (K + 1,); the number of each weight's value, (groups, inputs, LANES)
    int16, or int32 where K is 2^16 or more; which weights are negative, (groups, inputs) int32, a bit for each lane;
    and the bias, (groups · LANES,). Rows that fill up the last group are zeros.

    >>> codes = torch.tensor([0, 3, 3, 4], dtype=torch.int32)
    >>> table, places, signs, _ = arrange(torch.tensor([1.0, 5.0]), codes, (2, 2))
    >>> table.tolist(), places[0, :, :3].tolist(), signs.tolist()
    ([1.0, 5.0, 0.0], [[0, 1, 2], [1, 2, 2]], [[2, 1]])
    """
    buckets, (outputs, inputs) = len(values), shape
    rows = np.full((-(-outputs // LANES) * LANES, inputs), 2 * buckets, dtype=np.int32)
    rows[:outputs] = codes.reshape(shape).numpy()
    groups = np.ascontiguousarray(rows.reshape(-1, LANES, inputs).swapaxes(1, 2))  # (groups, inputs, lanes)
    kind = (np.uint16, np.int16) if buckets < 2**16 else (np.uint32, np.int32)
    places = (groups // 2).astype(kind[0]).view(kind[1])  # torch computes little with unsigned ones
    signs = np.packbits(groups % 2 == 1, axis=2, bitorder="little").view(np.int32)[..., 0]
    table = torch.cat([values.detach(), values.new_zeros(1)])
    added = values.new_zeros(len(rows))
    if bias is not None:
        added[:outputs] = bias.detach()
    return table, torch.from_numpy(places), torch.from_numpy(signs.copy()), added


@dataclass(frozen=True)
class Arrays:
    """What compiled code reads: values, places, signs and bias as :func:`arrange` gives them, places unsigned."""

    values: np.ndarray
    places: np.ndarray
    signs: np.ndarray
    bias: np.ndarray


def arrays(values: Tensor, places: Tensor, signs: Tensor, bias: Tensor) -> Arrays:
    """Check what :func:`arrange` made, since compiled code reads whatever memory it names, and view it for the kernels.

    values: (K + 1,), of one of ``TYPES``, on the CPU.
    places: (groups, inputs, LANES).
    signs: (groups, inputs).
    bias: (groups · LANES,), of the type of the values.

    Raises ValueError for shapes that do not fit, and for a number that names no value.

    >>> arrays(*arrange(torch.ones(2), torch.zeros(6, dtype=torch.int32), (2, 3))).places.shape
    (1, 3, 32)
    """
    groups, inputs, lanes = places.shape
    if lanes != LANES or signs.shape != (groups, inputs) or bias.shape != (groups * LANES,):
        raise ValueError(
            f"places {tuple(places.shape)}, signs {tuple(signs.shape)} and a bias {tuple(bias.shape)} do not fit:"
            f" accepted are (groups, inputs, {LANES}), (groups, inputs) and (groups · {LANES},)"
        )
    unsigned = places.contiguous().numpy().view(np.uint16 if places.dtype == torch.int16 else np.uint32)
    largest = int(unsigned.max(initial=0))
    if largest >= len(values):
        raise ValueError(f"code {largest} is out of range: there are {len(values)} values")
    table, added = (tensor.detach().contiguous().numpy() for tensor in (values, bias))
    return Arrays(table, unsigned, signs.contiguous().numpy(), added)


def product(x: Tensor, weight: Arrays, outputs: int) -> Tensor:
    """Multiply samples with a hashed matrix, of which no more than a vector is there at a time, and add the bias.

    x: (n, inputs), of the type of the values, on the CPU.
    weight: the matrix.
    outputs: its rows.

    Returns (n, outputs), without gradients.

    >>> made = arrange(torch.tensor([1.0, 5.0]), torch.tensor([0, 3, 3, 4], dtype=torch.int32), (2, 2))
    >>> product(torch.tensor([[1.0, 10.0]]), arrays(*made), 2)  # of [[1, -5], [-5, 0]]
    tensor([[-49.,  -5.]])
    """
    n = len(x)
    short = 0 if n == 1 else -n % SAMPLES
    if short:
        x = torch.cat([x, x.new_zeros(short, x.shape[1])])
    read = (x.detach() if x.requires_grad else x).contiguous().numpy()
    sums = np.empty((n + short, outputs), weight.values.dtype)
    multiply(weight.values, weight.places, weight.signs, weight.bias, read, sums)
    product = torch.from_numpy(sums)
    return product[:n] if short else product


def matrix(weight: Arrays, outputs: int) -> Tensor:
    """Write a hashed matrix in full.

    weight: the matrix.
    outputs: its rows.

    Returns (outputs, inputs), which lies column by column in memory.

    >>> made = arrange(torch.tensor([1.0, 5.0]), torch.tensor([0, 3, 3, 4], dtype=torch.int32), (2, 2))
    >>> matrix(arrays(*made), 2).tolist()
    [[1.0, -5.0], [-5.0, 0.0]]
    """
    columns = np.empty((weight.places.shape[1], len(weight.places) * LANES + GAP), weight.values.dtype)
    expand(weight.values, weight.places, weight.signs, columns)
    return torch.from_numpy(columns)[:, :outputs].T


# --- the inner loops --------------------------------------------------------------------------------------------------


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's decorator of that name, typed as compiled code calls the function: without its first argument."""
    return numba_intrinsic(function)


class _Group:
    """The arrays of one call in LLVM's terms, and the weights of one group of rows.

    Arguments come in the order table, places, signs, any other arrays, group, any other numbers.
    """

    def __init__(self, context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> None:
        self.builder = builder
        self.arrays = [
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, arguments, strict=True)
            if isinstance(kind, types.Array)
        ]
        self.inputs = builder.extract_value(self.arrays[1].shape, 1)
        self.number, *self.others = arguments[len(self.arrays) :]
        self.first = builder.mul(self.number, self.inputs)  # the place of its input 0
        self.bits = signature.args[1].dtype.bitwidth
        self.kind = ir.VectorType(context.get_data_type(signature.args[0].dtype), LANES)
        self.size = signature.args[0].dtype.bitwidth // 8

    def at(self, array: int, index: ir.Value, kind: ir.Type) -> ir.Value:
        """A pointer of another type to an item of an array."""
        return self.builder.bitcast(self.builder.gep(self.arrays[array].data, [index]), kind.as_pointer())

    def load(self, array: int, index: ir.Value, kind: ir.Type, align: int) -> ir.Value:
        value = self.builder.load(self.at(array, index, kind))
        value.align = align
        return value

    def weights(self, column: ir.Value) -> ir.Value:
        """xi(i, j) w_h(i, j) for all rows i of the group and one input j, as one vector."""
        builder, per_word = self.builder, 64 // self.bits
        column = builder.add(self.first, column)
        start = builder.mul(column, _number(LANES))
        weights = ir.Constant(self.kind, ir.Undefined)
        # method
        for lane in range(LANES):
            if lane % per_word == 0:
                word = self.load(1, builder.add(start, _number(lane)), LONG, self.bits // 8)
            place = builder.lshr(word, _number(lane % per_word * self.bits))
            place = builder.and_(place, _number(2**self.bits - 1))
            value = self.load(0, place, self.kind.element, self.size)
            weights = builder.insert_element(weights, value, ir.Constant(INT, lane))
        signs = builder.bitcast(self.load(2, column, INT, 4), ir.VectorType(ir.IntType(1), LANES))
        minus = builder.fsub(ir.Constant(self.kind, [-0.0] * LANES), weights)
        return builder.select(signs, minus, weights)
        # end of method


def _number(value: int) -> ir.Constant:
    return ir.Constant(LONG, value)


def _splat(builder: ir.IRBuilder, scalar: ir.Value, kind: ir.VectorType) -> ir.Value:
    """The scalar in every lane of a vector."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(INT, 0))
    zeros = ir.Constant(ir.VectorType(INT, LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _multiplier(samples: int) -> Callable[..., Any]:
    """Make ``add(table, places, signs, bias, x, sums, group, column, first)``: the sums of one group for some samples.

    x (n, inputs); sums (n, any width), from ``column`` on. It takes the samples from ``first`` on.

    samples: how many it takes.
    """

    @intrinsic
    def function(
        typing: Any,
        table: Any,
        places: Any,
        signs: Any,
        bias: Any,
        x: Any,
        sums: Any,
        group: Any,
        column: Any,
        first: Any,
    ) -> tuple[Any, Callable]:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            of = _Group(context, builder, signature, arguments)
            column, first = of.others
            kind, rows = of.kind, [builder.add(first, _number(sample)) for sample in range(samples)]
            start = of.load(3, builder.mul(of.number, _number(LANES)), kind, of.size)
            totals = [cgutils.alloca_once_value(builder, start) for _ in rows]
            with cgutils.for_range(builder, of.inputs) as loop:
                weights = of.weights(loop.index)
                for row, total in zip(rows, totals, strict=True):
                    index = builder.add(builder.mul(row, of.inputs), loop.index)
                    factor = _splat(builder, of.load(4, index, kind.element, of.size), kind)
                    builder.store(_multiply_add(builder, weights, factor, builder.load(total)), total)
            width = builder.extract_value(of.arrays[5].shape, 1)
            for row, total in zip(rows, totals, strict=True):
                index = builder.add(builder.mul(row, width), column)
                builder.store(builder.load(total), of.at(5, index, kind)).align = of.size
            return context.get_dummy_value()

        return types.void(table, places, signs, bias, x, sums, *[types.intp] * 3), generate

    return function


def _multiply_add(builder: ir.IRBuilder, one: ir.Value, other: ir.Value, total: ir.Value) -> ir.Value:
    kind = one.type
    name = f"llvm.fmuladd.v{LANES}f{64 if isinstance(kind.element, ir.DoubleType) else 32}"
    return builder.call(
        cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name), [one, other, total]
    )


@intrinsic
def _write(typing: Any, table: Any, places: Any, signs: Any, columns: Any, group: Any) -> tuple[Any, Callable]:
    """Write the weights of one group into the columns (inputs, lanes and a gap)."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        of = _Group(context, builder, signature, arguments)
        width = builder.extract_value(of.arrays[3].shape, 1)
        with cgutils.for_range(builder, of.inputs) as loop:
            index = builder.add(builder.mul(loop.index, width), builder.mul(of.number, _number(LANES)))
            builder.store(of.weights(loop.index), of.at(3, index, of.kind)).align = of.size
        return context.get_dummy_value()

    return types.void(table, places, signs, columns, types.intp), generate


_add_one, _add_several = _multiplier(1), _multiplier(SAMPLES)


@numba.njit(cache=True)
def multiply(
    table: np.ndarray, places: np.ndarray, signs: np.ndarray, bias: np.ndarray, x: np.ndarray, sums: np.ndarray
) -> None:
    """Write the products with ``x`` (n, inputs) into ``sums`` (n, outputs); n is 1, or many times SAMPLES.

    ``bias`` (lanes of all groups) is added.
    """
    edge = np.empty((len(x), LANES), sums.dtype)  # the last group may have more lanes than there are outputs left
    for group in range(len(places)):
        start = group * LANES
        whole = start + LANES <= sums.shape[1]
        target, column = (sums, start) if whole else (edge, 0)
        if len(x) == 1:
            _add_one(table, places, signs, bias, x, target, group, column, 0)
        else:
            for first in range(0, len(x), SAMPLES):
                _add_several(table, places, signs, bias, x, target, group, column, first)
        if not whole:
            for sample in range(len(x)):
                for lane in range(sums.shape[1] - start):
                    sums[sample, start + lane] = edge[sample, lane]


@numba.njit(cache=True)
def expand(table: np.ndarray, places: np.ndarray, signs: np.ndarray, columns: np.ndarray) -> None:
    """Write the matrix into ``columns`` (inputs, lanes of all groups and a gap)."""
    for group in range(len(places)):
        _write(table, places, signs, columns, group)
