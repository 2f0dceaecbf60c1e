"""Vector instructions for numba, 512 bits at a time, written in LLVM's intermediate representation.

numba's Python cannot express them. LLVM turns each into what the processor has: one instruction with AVX-512, two or
more with narrower vectors. The functions take addresses and counts as whole numbers, inside code that numba compiles.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

ROWS, LANES = 4, 16  # of a tile: how many rows of one operand are multiplied with how many of the other
INT, LONG, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
WORDS = ir.VectorType(LONG, 8)


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's decorator of that name, typed as compiled code calls the function: without its first argument."""
    return numba_intrinsic(function)


def _constant(value: int) -> ir.Constant:
    return ir.Constant(LONG, value)


def _splat(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    """The scalar in every lane of a vector."""
    kind = ir.VectorType(scalar.type, lanes)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(INT, 0))
    return builder.shuffle_vector(
        one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(INT, lanes), [0] * lanes)
    )


def _at(builder: ir.IRBuilder, address: ir.Value, index: ir.Value, kind: ir.Type, size: int) -> ir.Value:
    """A pointer to a value of ``kind``, ``index`` items of ``size`` bytes after an address."""
    return builder.inttoptr(builder.add(address, builder.mul(index, _constant(size))), kind.as_pointer())


def _load(builder: ir.IRBuilder, pointer: ir.Value, align: int) -> ir.Value:
    value = builder.load(pointer)
    value.align = align
    return value


def _popcount(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    kind = ir.FunctionType(WORDS, [WORDS])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.ctpop.v8i64"), [value])


def _accumulators(builder: ir.IRBuilder, kind: ir.VectorType, count: int) -> list[ir.Value]:
    zero = 0 if isinstance(kind.element, ir.IntType) else 0.0
    return [cgutils.alloca_once_value(builder, ir.Constant(kind, [zero] * kind.count)) for _ in range(count)]


def count_differences(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, words: ir.Value, rows: int) -> list[ir.Value]:
    """popcount(a xor b) for each of some rows of a and the LANES rows of b.

    builder: where the instructions go.
    a: address of the rows of a, one after the other.
    b: address of a panel: LANES rows of b, word by word.
    words: in each row.
    rows: how many of a.
    Returns pointers to vectors of eight counts.
    """
    counts = _accumulators(builder, WORDS, rows * LANES // 8)
    with cgutils.for_range(builder, words) as loop:
        place = builder.mul(loop.index, _constant(LANES))
        right = [
            _load(builder, _at(builder, b, builder.add(place, _constant(v)), WORDS, 8), 8) for v in range(0, LANES, 8)
        ]
        for r in range(rows):
            index = builder.add(builder.mul(words, _constant(r)), loop.index)
            left = _splat(builder, _load(builder, _at(builder, a, index, LONG, 8), 8), 8)
            for count, other in zip(counts[r * len(right) :], right, strict=False):
                # method
                more = _popcount(builder, builder.xor(left, other))
                builder.store(builder.add(builder.load(count), more), count)
                # end of method
    return counts


def tile(rows: int, real: bool) -> Callable:
    """Make ``tile(a, words, b, out, step, length)``, which multiplies some rows of signs with LANES others.

    It writes length - 2 popcount(a xor b) to rows of ``step`` values at the address ``out``. ``a`` is the address of
    rows of ``words`` words each, ``b`` that of a panel: LANES rows, word by word.

    rows: how many of a.
    real: whether products are written as float32, else as int32.
    """

    @intrinsic
    def function(typing: Any, a: Any, words: Any, b: Any, out: Any, step: Any, length: Any) -> tuple[Any, Callable]:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            a, words, b, out, step, length = arguments
            counts, vectors = count_differences(builder, a, b, words, rows), LANES // 8
            kind = ir.VectorType(FLOAT if real else INT, 8)
            whole = _splat(builder, length, 8)
            for r in range(rows):
                for v in range(vectors):
                    count = builder.load(counts[r * vectors + v])
                    value = builder.trunc(builder.sub(whole, builder.add(count, count)), ir.VectorType(INT, 8))
                    value = builder.sitofp(value, kind) if real else value
                    index = builder.add(builder.mul(step, _constant(r)), _constant(8 * v))
                    builder.store(value, _at(builder, out, index, kind, 4)).align = 4
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6), generate

    return function


def bit_tile(rows: int) -> Callable:
    """Make ``bit_tile(a, words, b, limits, flips, lanes, places, out, step)``: some rows of signs meet LANES others.

    Of each product it writes one bit, count <= limit, for count = popcount(a xor b), changed where the flip is 1: 16
    bits for each row, to every ``step``-th uint16 at the address ``out``. ``limits`` is the address of a table of
    int64 with ``lanes`` values for each kind of place, ``flips`` that of its bits, 16 in one uint16, and ``places``
    that of the kinds of these rows, int64. The other arguments are those of :func:`tile`.

    rows: how many of a.
    """

    @intrinsic
    def function(
        typing: Any,
        a: Any,
        words: Any,
        b: Any,
        limits: Any,
        flips: Any,
        lanes: Any,
        places: Any,
        out: Any,
        step: Any,
    ) -> tuple[Any, Callable]:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            a, words, b, limits, flips, lanes, places, out, step = arguments
            counts, vectors = count_differences(builder, a, b, words, rows), LANES // 8
            half, panels = ir.IntType(16), builder.udiv(lanes, _constant(LANES))
            for r in range(rows):
                place = _load(builder, _at(builder, places, _constant(r), LONG, 8), 8)
                bits = _load(builder, _at(builder, flips, builder.mul(place, panels), half, 2), 2)
                for v in range(vectors):
                    index = builder.add(builder.mul(place, lanes), _constant(8 * v))
                    limit = _load(builder, _at(builder, limits, index, WORDS, 8), 8)
                    reached = builder.icmp_signed("<=", builder.load(counts[r * vectors + v]), limit)
                    byte = builder.zext(builder.bitcast(reached, ir.IntType(8)), half)
                    bits = builder.xor(bits, builder.shl(byte, ir.Constant(half, 8 * v)))
                builder.store(bits, _at(builder, out, builder.mul(step, _constant(r)), half, 2)).align = 2
            return context.get_dummy_value()

        return types.void(*[types.intp] * 9), generate

    return function


@intrinsic
def signs(typing: Any, values: Any, thresholds: Any, count: Any) -> tuple[Any, Callable]:
    """``signs(values, thresholds, count)`` -> three words of bits for up to 64 float32: x >= t, x <= t, x is NaN."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        values, thresholds, count = arguments
        kind, mask_kind = ir.VectorType(FLOAT, 64), ir.VectorType(ir.IntType(1), 64)
        lanes = ir.Constant(ir.VectorType(INT, 64), list(range(64)))
        mask = builder.icmp_signed("<", lanes, _splat(builder, builder.trunc(count, INT), 64))
        load = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(kind, [kind.as_pointer(), INT, mask_kind, kind]),
            "llvm.masked.load.v64f32.p0",
        )
        zero = ir.Constant(kind, [0.0] * 64)
        x, t = (
            builder.call(load, [builder.inttoptr(address, kind.as_pointer()), ir.Constant(INT, 4), mask, zero])
            for address in (values, thresholds)
        )
        words = []
        for compared in (
            builder.fcmp_ordered(">=", x, t),
            builder.fcmp_ordered("<=", x, t),
            builder.fcmp_unordered("uno", x, x),
        ):
            words.append(builder.bitcast(builder.and_(compared, mask), LONG))
        return context.make_tuple(builder, signature.return_type, words)

    return types.UniTuple(types.intp, 3)(*[types.intp] * 3), generate


CHAINS = 12  # independent sums: enough to keep every pipe of the processor busy


@intrinsic
def popcounts(typing: Any, turns: Any, seed: Any) -> tuple[Any, Callable]:
    """Xor, count and add ``turns`` · CHAINS vectors of 8 words; returns a lane made of all, so that none is skipped."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        turns, seed = arguments
        counts = _accumulators(builder, WORDS, CHAINS)
        start = _splat(builder, seed, 8)
        others = [
            builder.mul(start, ir.Constant(WORDS, [2 * (8 * i + j) + 3 for j in range(8)])) for i in range(CHAINS)
        ]
        with cgutils.for_range(builder, turns) as loop:
            moving = _splat(builder, loop.index, 8)
            for count, other in zip(counts, others, strict=True):
                more = _popcount(builder, builder.xor(moving, other))
                builder.store(builder.add(builder.load(count), more), count)
        total = builder.load(counts[0])
        for count in counts[1:]:
            total = builder.xor(total, builder.load(count))
        return builder.extract_element(total, ir.Constant(INT, 0))

    return types.intp(types.intp, types.intp), generate


@intrinsic
def multiply_adds(typing: Any, turns: Any, seed: Any) -> tuple[Any, Callable]:
    """Fused multiply-adds of ``turns`` · CHAINS vectors of 16 float32; returns one lane's sum, so none is skipped."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        turns, seed = arguments
        kind = ir.VectorType(FLOAT, 16)
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), "llvm.fma.v16f32")
        sums = _accumulators(builder, kind, CHAINS)
        factor = _splat(builder, builder.sitofp(seed, FLOAT), 16)
        with cgutils.for_range(builder, turns):
            for total in sums:  # x <- x · f + f: each waits for the one before it in its own chain alone
                builder.store(builder.call(fma, [builder.load(total), factor, factor]), total)
        total = builder.load(sums[0])
        for other in sums[1:]:
            total = builder.fadd(total, builder.load(other))
        return builder.fpext(builder.extract_element(total, ir.Constant(INT, 0)), ir.DoubleType())

    return types.float64(types.intp, types.intp), generate
