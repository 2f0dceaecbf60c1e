r"""The network that :func:`lib.quantization.affine.simulate` imitates, in integers alone (jacob2018quantization).

.. math:: q_3 = Z_3 + M \Big( \sum q_1 q_2 - Z_2 \sum q_1 - Z_1 \sum q_2 + N Z_1 Z_2 + q_b \Big), \quad
   M = \frac{S_1 S_2}{S_3} = 2^{-n} M_0

for the input 1, the weights 2 and the output 3 of a layer. Everything in the bracket is int32, also the bias
:math:`q_b = b / (S_1 S_2)`; M_0 in [1/2, 1) is held as the int32 number round(2^31 M_0). Sums, products, means and
roundings are those of TensorFlow Lite's reference kernels; its average pooling keeps one grid, ours has one before and
one after, as its mean has. A function such as SiLU is a table with an entry for each integer, and the parts of a
concatenation come to one grid by such tables.
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

    All its numbers are buffers, which keep their types: a move to another type leaves them alone.

    simulated: what :func:`lib.quantization.affine.simulate` returned, calibrated; it is left as it was.
    rounding: "twice" or "once", see :func:`lib.quantization.shared.integer_arithmetic.rescale`.

    Returns the new network.
    Raises ValueError for another rounding, for a network that is not simulated or not calibrated, for activations of
    more than 16 bits, and for a layer whose sums may leave int32 (jacob2018quantization, section 2).

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
    """Give each bias the value that the integer network has for it, a multiple of S_1 S_2. In place.

    With it, and with ``rounding="once"``, the simulated and the integer network have the same integers everywhere,
    except for ties and for float rounding.

    simulated: what :func:`lib.quantization.affine.simulate` returned, calibrated.

    Returns the network.
    Raises ValueError for a layer that is used more than once, and for what :func:`convert` refuses.
    """
    layers = [part for part in convert(simulated).modules() if isinstance(part, integer_layers.Layer)]
    for part in layers:
        if sum(part.name == other.name for other in layers) > 1:
            raise ValueError(f"layer {part.name!r} is used more than once, with one rounded bias for each use")
    for part in layers:
        bias = layer_named(simulated, part.name).bias
        if bias is not None:
            bias.data.copy_(part.bias * part.bias_scale)
    return simulated
