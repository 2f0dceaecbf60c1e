r"""The integer-only network that :func:`lib.quantization.affine.simulate` imitates (jacob2018quantization).

.. math:: q_3 = Z_3 + M \Big( \sum q_1 q_2 - Z_2 \sum q_1 - Z_1 \sum q_2 + N Z_1 Z_2 + q_b \Big), \quad
   M = \frac{S_1 S_2}{S_3} = 2^{-n} M_0

for the input 1, the weights 2 and the output 3 of a layer. Everything in the bracket is int32, including the bias
:math:`q_b = b / (S_1 S_2)`; M_0 in [1/2, 1) is stored as the int32 number round(2^31 M_0). Sums, products, means and
rounding follow TensorFlow Lite's reference kernels, except that its average pooling keeps one grid, while ours, like
its mean, has one before and one after. A function such as SiLU is a table with an entry for each integer. Such tables
also bring the parts of a concatenation to one grid.
"""

from functools import partial

from torch import fx

from lib.arguments import check_one_of
from lib.quantization.shared import integer_ends, integer_layers
from lib.quantization.shared import integer_operations as parts
from lib.quantization.shared.activation import Activation
from lib.quantization.shared.lowering import Parts, lowered
from lib.weights import layer_named

ROUNDINGS = ("twice", "once")
MOST_BITS = 16


def convert(simulated: fx.GraphModule, *, rounding: str = "twice") -> fx.GraphModule:
    """Convert a simulated network into one that computes in int32; images and logits are float.

    All its numbers are buffers that keep their types, even if the network is moved to another type.

    simulated: what :func:`lib.quantization.affine.simulate` returned, calibrated; left unchanged.
    rounding: "twice" or "once", see :func:`lib.quantization.shared.integer_arithmetic.rescale`.

    Returns the new network.
    Raises ValueError for an unknown rounding, for a network that is not simulated or not calibrated, for activations of
    more than 16 bits, and for a layer whose sums may overflow int32 (jacob2018quantization, section 2).

    >>> import torch
    >>> from lib.quantization.affine import calibrate, simulate
    >>> images = torch.tensor([[0.0, 1.0], [1.0, 0.5]])
    >>> simulated = calibrate(simulate(torch.nn.Linear(2, 3)), images)
    >>> [type(module).__name__ for module in convert(simulated).children()]
    ['Quantize', 'Layer', 'Dequantize']
    """
    check_one_of("rounding", rounding, ROUNDINGS)
    for name, module in simulated.named_modules():
        if isinstance(module, Activation) and module.bits > MOST_BITS:
            raise ValueError(f"activation {name!r} has {module.bits} bits: accepted are up to {MOST_BITS}")
    makers: Parts = {
        "quantize": integer_ends.Quantize,
        "dequantize": integer_ends.Dequantize,
        "layer": partial(integer_layers.Layer, rounding=rounding),
        "sum": partial(parts.Sum, rounding=rounding),
        "product": partial(parts.Product, rounding=rounding),
        "mean": partial(parts.Mean, rounding=rounding),
        "concatenation": parts.Concatenation,
        "table": parts.Table,
        "pool": parts.Pool,
        "spread": parts.Spread,
        "clamp": parts.Clamp,
        "fused_clamp": parts.Clamp,
    }
    return lowered(simulated, makers)


def round_biases(simulated: fx.GraphModule) -> fx.GraphModule:
    """Round each bias to its value in the integer network, a multiple of S_1 S_2. In place.

    Afterwards the simulated network and the integer network with ``rounding="once"`` have the same integers everywhere,
    except for ties and float rounding.

    simulated: what :func:`lib.quantization.affine.simulate` returned, calibrated.

    Returns the network.
    Raises ValueError for a layer that is used more than once, and for what :func:`convert` refuses.
    """
    layers = [part for part in convert(simulated).modules() if isinstance(part, integer_layers.Layer)]
    for part in layers:
        if sum(part.name == other.name for other in layers) > 1:
            raise ValueError(f"layer {part.name!r} is used more than once: each use needs its own rounded bias")
    for part in layers:
        bias = layer_named(simulated, part.name).bias
        if bias is not None:
            bias.data.copy_(part.bias * part.bias_scale)
    return simulated
