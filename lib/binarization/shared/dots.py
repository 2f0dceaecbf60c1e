"""A loop of dot products of short numbers in registers, on processors that have vector instructions for them."""

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, config

from lib.binarization.shared.vector import CHAINS, FLOAT, INT, intrinsic

LANES = 16  # of 32 bits in a vector of 512
DOTS = {  # instruction -> its name among the processor's features, and the numbers that one lane of 32 bits holds
    "vdpbf16ps": ("avx512bf16", 2),
    "vpdpbusd": ("avx512vnni", 4),
}
MATRIX_UNITS = ("amx-int8", "sme")  # the features of a core that multiplies tiles of matrices in one instruction


def features() -> set[str]:
    """The features of this processor for which numba compiles; none where its settings name another processor."""
    settings = vars(config)  # numba fills in its settings when it is imported
    if settings["CPU_NAME"] or settings["CPU_FEATURES"] is not None or not settings["ENABLE_AVX"]:
        return set()
    try:
        return {name for name, there in binding.get_host_cpu_features().items() if there}
    except RuntimeError:  # LLVM does not know how to ask this processor
        return set()


def dot_products(instruction: str) -> Callable | None:
    """Make ``dot_products(turns, seed)``: dot products of ``turns`` · CHAINS vectors of 512 bits, added up in 32 bits.

    Each lane of 32 bits adds the products of its numbers: two of bfloat16, or four of 8 bits, one operand unsigned.
    The compiled function returns the first lane's sum, so that the compiler skips none. ``seed`` fills each lane of
    both operands.

    instruction: a key of DOTS.
    Returns None where this processor does not have the instruction.
    """
    if DOTS[instruction][0] not in features():
        return None
    binding.initialize_native_asmparser()  # LLVM's names for these instructions differ between versions
    lane = INT if instruction == "vpdpbusd" else FLOAT
    kind = ir.VectorType(lane, LANES)
    dot = ir.InlineAsm(ir.FunctionType(kind, [kind] * 3), f"{instruction} $2, $1, $0", "=v,v,v,0")

    @intrinsic
    def function(typing: Any, turns: Any, seed: Any) -> tuple[Any, Callable]:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            turns, seed = arguments
            zeros = ir.Constant(kind, [0 if lane is INT else 0.0] * LANES)
            sums = [cgutils.alloca_once_value(builder, zeros) for _ in range(CHAINS)]
            factor = ir.Constant(kind, ir.Undefined)
            number = builder.bitcast(builder.trunc(seed, INT), lane)
            for place in range(LANES):
                factor = builder.insert_element(factor, number, ir.Constant(INT, place))
            with cgutils.for_range(builder, turns):
                for total in sums:
                    builder.store(builder.call(dot, [factor, factor, builder.load(total)]), total)
            first, add = builder.load(sums[0]), builder.add if lane is INT else builder.fadd
            for other in sums[1:]:
                first = add(first, builder.load(other))
            real = builder.extract_element(first, ir.Constant(INT, 0))
            return (builder.sitofp if lane is INT else builder.fpext)(real, ir.DoubleType())

        return types.float64(types.intp, types.intp), generate

    return function
