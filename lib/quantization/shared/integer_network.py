r"""The network that :func:`lib.quantization.affine.simulate` imitates, in integers alone (jacob2018quantization).

.. math:: q_3 = Z_3 + M \Big( \sum q_1 q_2 - Z_2 \sum q_1 - Z_1 \sum q_2 + N Z_1 Z_2 + q_b \Big), \quad
   M = \frac{S_1 S_2}{S_3} = 2^{-n} M_0

for the input 1, the weights 2 and the output 3 of a layer. Everything in the bracket is int32, also the bias
:math:`q_b = b / (S_1 S_2)`; M_0 in [1/2, 1) is held as the int32 number round(2^31 M_0). Sums, means and roundings are
those of TensorFlow Lite's reference kernels. Between the layers flow int32 tensors that hold the integers of a grid.
"""

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from lib.quantization.affine import Activation, Grid
from lib.quantization.shared import graph
from lib.weights import compressed_form

INT32 = torch.iinfo(torch.int32)
ROUNDINGS = ("twice", "once")
CONVOLUTIONS = {nn.Conv1d: functional.conv1d, nn.Conv2d: functional.conv2d, nn.Conv3d: functional.conv3d}


def multiplier(factor: Tensor) -> tuple[Tensor, Tensor]:
    """round(2^31 M_0) and the exponent -n of positive factors M = 2^-n M_0, M_0 in [1/2, 1); both int64."""
    mantissa, exponent = torch.frexp(factor.double())
    m0, exponent = (mantissa * 2**31).round().long(), exponent.long()
    over = m0 == 2**31  # M_0 was rounded up to 1
    m0, exponent = torch.where(over, m0 // 2, m0), exponent + over
    return torch.where(exponent < -31, 0, m0), exponent.clamp(min=-31)


def rescale(q: Tensor, m0: Tensor, exponent: Tensor, *, rounding: str = "twice") -> Tensor:
    """M q, rounded to an integer, int64.

    "twice": M_0 q to the nearest, then / 2^n to the nearest, away from zero. "once": both in one step, ties up, as a
    build of TensorFlow Lite can do too."""
    if rounding == "once":
        shift = 31 - exponent
        return (q.long() * m0 + (1 << (shift - 1))) >> shift
    q = (q.long() << exponent.clamp(min=0)).clamp(INT32.min, INT32.max)
    product = q * m0  # 62 bits
    nudge = torch.where(product >= 0, 2**30, 1 - 2**30)
    high = torch.div(product + nudge, 2**31, rounding_mode="trunc")
    n = (-exponent).clamp(min=0)
    mask = (1 << n) - 1
    return (high >> n) + ((high & mask) > (mask >> 1) + (high < 0).long())


def accumulate(q1: Tensor, z1: int, q2: Tensor, z2: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """product(q1 - z1, q2 - z2) for a product that is linear in both, as four sums of which only one is large; int32.

    product: of int32 inputs (n, ...) and weights (outputs, ...), such as ``torch.nn.functional.linear``; z2 (outputs,).
    """
    total = product(q1, q2)
    wide = [1, -1] + [1] * (total.dim() - 2) if q2.dim() > 2 else [-1]  # outputs are dimension 1, of linear the last
    flat = q2.flatten(1)
    total = total - (z1 * (flat.sum(1, dtype=torch.int32) - flat.shape[1] * z2)).reshape(wide)
    if z2.any():
        total = total - z2.reshape(wide) * product(q1, torch.ones_like(q2))
    return total


class Quantize(nn.Module):
    """Real numbers to the integers of a grid."""

    def __init__(self, grid: Grid):
        super().__init__()
        self.grid = grid

    def forward(self, r: Tensor) -> Tensor:
        return self.grid.quantize(r).int()


class Dequantize(Quantize):
    """The integers of a grid to real numbers."""

    def forward(self, q: Tensor) -> Tensor:
        return self.grid.dequantize(q)


class Layer(nn.Module):
    """A linear or convolution layer: int32 integers of the grid before to those of the grid after."""

    def __init__(self, name: str, layer: nn.Module, before: Grid, after: Grid, *, rounding: str = "twice"):
        super().__init__()
        form, (weight,) = compressed_form(layer)
        grid = form.grid(weight)
        scale, zero = (each.flatten().expand(len(weight)) for each in (grid.scale.double(), grid.zero))
        self.layer, self.z1, self.low, self.high = layer, before.zero.item(), after.low, after.high
        self.name, self.rounding = name, rounding
        q2, bias = grid.quantize(weight), torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
        # A bias must fit: where the weights' S is too fine for it, the weights take a coarser one.
        coarse = torch.maximum(scale, bias.abs().double() / (before.scale.double() * 2**30))
        wide = [-1] + [1] * (weight.dim() - 1)
        q2 = ((q2 - zero.reshape(wide)) * (scale / coarse).reshape(wide)).round().long() + zero.reshape(wide)
        self.bias_scale = before.scale.double() * coarse
        self.bias = (bias.double() / self.bias_scale).round().int()
        most = max(self.z1 - before.low, before.high - self.z1) * (q2 - zero.reshape(wide)).abs().flatten(1).sum(1)
        if (worst := (most + self.bias.long().abs()).max().item()) > INT32.max:
            raise ValueError(f"a sum in layer {name!r} may reach {worst}: int32 ends at {INT32.max}, take fewer bits")
        self.q2, self.z2, self.z3 = q2.int(), zero.int(), after.zero.item()
        self.m0, self.exponent = multiplier(self.bias_scale / after.scale.double())

    def product(self, q1: Tensor, q2: Tensor) -> Tensor:
        """The layer's sums of products without its bias; its input is padded already."""
        if isinstance(self.layer, nn.Linear):
            return functional.linear(q1, q2)
        kind = next(convolve for each, convolve in CONVOLUTIONS.items() if isinstance(self.layer, each))
        steps = self.layer.dilation
        if max(steps) > 1:  # torch has no int32 kernel for it: the holes become zeros
            reach = [(side - 1) * step + 1 for side, step in zip(q2.shape[2:], steps, strict=True)]
            holes = q2.new_zeros(*q2.shape[:2], *reach)
            holes[(..., *(slice(None, None, step) for step in steps))] = q2
            q2 = holes
        return kind(q1, q2, None, self.layer.stride, 0, 1, self.layer.groups)

    def forward(self, q1: Tensor) -> Tensor:
        if not isinstance(self.layer, nn.Linear):  # a border of zeros is one of Z_1
            mode = self.layer.padding_mode
            mode, border = ("constant", {"value": self.z1}) if mode == "zeros" else (mode, {})
            q1 = functional.pad(q1, self.layer._reversed_padding_repeated_twice, mode, **border)
        total = accumulate(q1, self.z1, self.q2, self.z2, self.product)
        wide = [-1] if isinstance(self.layer, nn.Linear) else [-1] + [1] * len(self.layer.kernel_size)
        bias, m0, exponent = (each.reshape(wide) for each in (self.bias, self.m0, self.exponent))
        scaled = rescale(total + bias, m0, exponent, rounding=self.rounding)
        return (scaled + self.z3).clamp(self.low, self.high).int()


class Clamp(nn.Module):
    """ReLU or ReLU6 on integers: no less than Z, no more than Z + 6 / S."""

    def __init__(self, layer: nn.Module, grid: Grid, fused: bool):
        super().__init__()
        six = grid.quantize(torch.tensor(6.0)).item() if isinstance(layer, nn.ReLU6) else grid.high
        self.least, self.most = grid.zero.item(), six

    def forward(self, q: Tensor) -> Tensor:
        return q.clamp(self.least, self.most)


class Sum(nn.Module):
    """Both sides to a common scale, 20 bits finer than the coarser of the two; then their sum to the scale after."""

    def __init__(self, a: Grid, b: Grid, after: Grid, *, rounding: str = "twice"):
        super().__init__()
        self.rounding = rounding
        twice = 2 * torch.maximum(a.scale, b.scale).double()
        self.sides = [(side.zero.item(), *multiplier(side.scale.double() / twice)) for side in (a, b)]
        self.after, self.out = after, multiplier(twice / (2**20 * after.scale.double()))

    def forward(self, *q: Tensor) -> Tensor:
        how = {"rounding": self.rounding}
        total = sum(rescale((each - z) << 20, *m, **how) for each, (z, *m) in zip(q, self.sides, strict=True))
        return (rescale(total, *self.out, **how) + self.after.zero).clamp(self.after.low, self.after.high).int()


class Mean(nn.Module):
    """Average pooling over windows of one size: a sum, and M = S_1 / (N S_3)."""

    def __init__(self, layer: nn.Module, before: Grid, after: Grid, *, rounding: str = "twice"):
        super().__init__()
        self.layer, self.before, self.after, self.rounding = layer, before, after, rounding

    def forward(self, q: Tensor) -> Tensor:
        window, stride = _window(self.layer, q.shape[-2:])
        total = functional.avg_pool2d((q - self.before.zero).long(), window, stride, divisor_override=1)
        factor = multiplier(self.before.scale.double() / (math.prod(window) * self.after.scale.double()))
        scaled = rescale(total, *factor, rounding=self.rounding)
        return (scaled + self.after.zero).clamp(self.after.low, self.after.high).int()


def _window(layer: nn.Module, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    def pair(value: object) -> tuple:
        return value if isinstance(value, tuple) else (value, value)

    if isinstance(layer, nn.AvgPool2d):
        return pair(layer.kernel_size), pair(layer.stride)
    outputs = [have if wanted is None else wanted for wanted, have in zip(pair(layer.output_size), size, strict=True)]
    if any(have % wanted for have, wanted in zip(size, outputs, strict=True)):
        raise ValueError(f"maps of {tuple(size)} do not divide into {tuple(outputs)} windows of one size")
    window = tuple(have // wanted for have, wanted in zip(size, outputs, strict=True))
    return window, window


def convert(simulated: fx.GraphModule, *, rounding: str = "twice") -> fx.GraphModule:
    """A network that computes in int32 what the simulated one imitates; images and logits are float.

    rounding: as in :func:`rescale`. Raises ValueError for another one, for a network that is not of
    :func:`lib.quantization.affine.simulate`, or not calibrated yet, and for one whose sums may leave int32.
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, not {rounding!r}")
    parts = {name: partial(part, rounding=rounding) for name, part in (("layer", Layer), ("sum", Sum), ("mean", Mean))}
    return lowered(simulated, parts | {"quantize": Quantize, "clamp": Clamp, "dequantize": Dequantize})


def round_biases(simulated: fx.GraphModule) -> fx.GraphModule:
    """Give each bias the value that the integer network has for it, a multiple of S_1 S_2. In place.

    With it, and with ``rounding="once"``, the simulated and the integer network have the same integers everywhere, but
    for ties and for a float's rounding. Errors as those of :func:`convert`.
    """
    for part in convert(simulated).modules():
        if isinstance(part, Layer) and part.layer.bias is not None:
            layer = simulated.get_submodule(part.name)
            layer.bias.data.copy_(part.bias * part.bias_scale)
    return simulated


def lowered(simulated: fx.GraphModule, parts: dict[str, Callable[..., nn.Module]]) -> fx.GraphModule:
    """The graph with each module replaced by the part that does it on integers."""
    if not isinstance(simulated, fx.GraphModule) or not any(isinstance(m, Activation) for m in simulated.modules()):
        raise ValueError(f"{type(simulated).__name__} has no grids: accepted is what simulate returns, calibrated")
    network, grids = copy.deepcopy(simulated).eval(), {}

    def after(node: fx.Node) -> Grid:  # the next grid: a ReLU may stand between
        reader = next(iter(node.users))
        module = graph.module_of(network, reader)
        return module.grid() if isinstance(module, Activation) else after(reader)

    for node in list(network.graph.nodes):
        module, inputs, new = graph.module_of(network, node), node.all_input_nodes, None
        if node.op in ("placeholder", "output"):
            continue
        real = inputs[0].op == "placeholder"
        grids[node] = module.grid() if isinstance(module, Activation) else grids.get(inputs[0])
        if isinstance(module, Activation):
            new = parts["quantize"](grids[node]) if real else None
        elif isinstance(module, graph.LAYERS):
            grids[node] = after(node)
            new = parts["layer"](node.target, module, grids[inputs[0]], grids[node])
        elif isinstance(module, graph.Sum):
            grids[node] = after(node)
            new = parts["sum"](*(grids[each] for each in node.args), grids[node])
        elif isinstance(module, graph.MEANS):
            grids[node] = after(node)
            new = parts["mean"](module, grids[inputs[0]], grids[node])
        elif isinstance(module, graph.CLAMPS):
            fused = isinstance(graph.module_of(network, next(iter(node.users))), Activation)
            grids[node] = after(node) if fused else grids[node]
            new = parts["clamp"](module, grids[node], fused)
        elif module is not None:  # pooling and the like
            continue
        if new is None and module is not None:  # nothing is left to do here
            node.replace_all_uses_with(inputs[0])
            network.graph.erase_node(node)
        elif new is not None:
            network.add_submodule(f"{node.name}_integer", new)
            node.target = f"{node.name}_integer"
    output = network.graph.output_node()
    network.add_submodule("output_real", parts["dequantize"](grids[output.args[0]]))
    with network.graph.inserting_before(output):
        output.args = (network.graph.call_module("output_real", output.args),)
    network.delete_all_unused_submodules()
    network.recompile()
    return network.eval()
