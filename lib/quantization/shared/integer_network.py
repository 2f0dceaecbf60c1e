r"""The network that :func:`lib.quantization.affine.simulate` imitates, in integers alone (jacob2018quantization).

.. math:: q_3 = Z_3 + M \Big( \sum q_1 q_2 - Z_2 \sum q_1 - Z_1 \sum q_2 + N Z_1 Z_2 + q_b \Big), \quad
   M = \frac{S_1 S_2}{S_3} = 2^{-n} M_0

for the input 1, the weights 2 and the output 3 of a layer. Everything in the bracket is int32, also the bias
:math:`q_b = b / (S_1 S_2)`; M_0 in [1/2, 1) is held as the int32 number round(2^31 M_0). Sums, means and roundings are
those of TensorFlow Lite's reference kernels. Between the layers flow int32 tensors that hold the integers of a grid.
"""

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from lib.quantization.affine import Activation, Grid, form_on_grid
from lib.quantization.shared import graph
from lib.weights import check_one_of, layer_named

INT32 = torch.iinfo(torch.int32)
ROUNDINGS = ("twice", "once")
CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.Conv3d: functional.conv3d,
}


def multiplier(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Split positive factors M = 2^-n M_0 into an int32 number and an exponent.

    factor: of any shape, above 0.

    Returns round(2^31 M_0), M_0 in [1/2, 1), and -n, both int64 and of that shape. A factor below 2^-32 gives 0.

    >>> [part.item() for part in multiplier(torch.tensor(0.75))]  # 0.75 = 2^0 · 0.75
    [1610612736, 0]
    """
    mantissa, exponent = torch.frexp(factor.double())
    m0, exponent = (mantissa * 2**31).round().long(), exponent.long()
    over = m0 == 2**31  # M_0 was rounded up to 1
    m0, exponent = torch.where(over, m0 // 2, m0), exponent + over
    return torch.where(exponent < -31, 0, m0), exponent.clamp(min=-31)


def rescale(q: Tensor, m0: Tensor, exponent: Tensor, *, rounding: str = "twice") -> Tensor:
    """Multiply integers by M and round to integers.

    q: integers, int32 or int64.
    m0: round(2^31 M_0), as :func:`multiplier` returns it.
    exponent: -n, as :func:`multiplier` returns it.
    rounding: "twice" rounds M_0 q to the nearest, then the division by 2^n to the nearest, ties away from zero, as
        TensorFlow Lite's reference kernels do; "once" rounds both in one step, ties up, as a build of it can do too.

    Returns M q, int64.

    >>> rescale(torch.tensor([10, -10]), *multiplier(torch.tensor(0.25))).tolist()
    [3, -3]
    >>> rescale(torch.tensor([10, -10]), *multiplier(torch.tensor(0.25)), rounding="once").tolist()
    [3, -2]
    """
    if rounding == "once":
        shift = 31 - exponent
        return (q.long() * m0 + (1 << (shift - 1))) >> shift
    # method
    q = (q.long() << exponent.clamp(min=0)).clamp(INT32.min, INT32.max)
    product = q * m0  # 62 bits
    nudge = torch.where(product >= 0, 2**30, 1 - 2**30)
    high = torch.div(product + nudge, 2**31, rounding_mode="trunc")
    n = (-exponent).clamp(min=0)
    mask = (1 << n) - 1
    return (high >> n) + ((high & mask) > (mask >> 1) + (high < 0).long())
    # end of method


def accumulate(q1: Tensor, z1: int, q2: Tensor, z2: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Compute product(q1 - z1, q2 - z2) as sums of integers, of which only one is large.

    q1: inputs, int32, (n, ...).
    z1: the zero of the inputs' grid.
    q2: weights, int32, (outputs, ...).
    z2: the zero of each output's grid, int32, (outputs,).
    product: linear in both of its arguments, such as ``torch.nn.functional.linear``.

    Returns int32.

    >>> q1, q2 = torch.tensor([[5, 6]], dtype=torch.int32), torch.tensor([[2, 3]], dtype=torch.int32)
    >>> accumulate(q1, 4, q2, torch.tensor([1], dtype=torch.int32), functional.linear).tolist()  # 1 · 1 + 2 · 2
    [[5]]
    """
    # method
    total = product(q1, q2)
    wide = [1, -1] + [1] * (total.dim() - 2) if q2.dim() > 2 else [-1]  # outputs are dimension 1, of linear the last
    flat = q2.flatten(1)
    total = total - (z1 * (flat.sum(1, dtype=torch.int32) - flat.shape[1] * z2)).reshape(wide)
    if z2.any():
        total = total - z2.reshape(wide) * product(q1, torch.ones_like(q2))
    return total
    # end of method


class Quantize(nn.Module):
    """Turns real numbers into the integers of a grid.

    grid: of the numbers.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, r: Tensor) -> Tensor:
        return self.grid.quantize(r).int()


class Dequantize(Quantize):
    """Turns the integers of a grid into real numbers.

    grid: of the numbers.
    """

    def forward(self, q: Tensor) -> Tensor:
        return self.grid.dequantize(q)


class Layer(nn.Module):
    """A linear or convolution layer that turns int32 integers of the grid before it into those of the grid after it.

    name: of the layer, for errors.
    layer: of a simulated network.
    before: grid of its input.
    after: grid of its output.
    rounding: "twice" or "once", see :func:`rescale`.
    """

    def __init__(self, name: str, layer: graph.LAYERS, before: Grid, after: Grid, *, rounding: str = "twice") -> None:
        super().__init__()
        form, weight = form_on_grid(layer, name)
        grid = form.grid(weight)
        scale, zero = (of.flatten().expand(len(weight)) for of in (grid.scale.double(), grid.zero))
        self.layer, self.z1, self.low, self.high = layer, int(before.zero.item()), after.low, after.high
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
        self.q2, self.z2, self.z3 = q2.int(), zero.int(), int(after.zero.item())
        self.m0, self.exponent = multiplier(self.bias_scale / after.scale.double())

    def product(self, q1: Tensor, q2: Tensor) -> Tensor:
        """Compute the layer's sums of products without its bias; the input is padded already."""
        if isinstance(self.layer, nn.Linear):
            return functional.linear(q1, q2)
        convolution = next(convolve for kind, convolve in CONVOLUTIONS.items() if isinstance(self.layer, kind))
        steps = self.layer.dilation
        if max(steps) > 1:  # torch has no int32 kernel for it: the holes become zeros
            reach = [(side - 1) * step + 1 for side, step in zip(q2.shape[2:], steps, strict=True)]
            holes = q2.new_zeros(*q2.shape[:2], *reach)
            places: Any = (..., *(slice(None, None, step) for step in steps))
            holes[places] = q2
            q2 = holes
        return convolution(q1, q2, None, self.layer.stride, 0, 1, self.layer.groups)

    def forward(self, q1: Tensor) -> Tensor:
        if not isinstance(self.layer, nn.Linear):  # a border of zeros is one of Z_1
            padding = self.layer.padding_mode
            mode, border = ("constant", self.z1) if padding == "zeros" else (padding, None)
            q1 = functional.pad(q1, self.layer._reversed_padding_repeated_twice, mode, border)
        total = accumulate(q1, self.z1, self.q2, self.z2, self.product)
        wide = [-1] if isinstance(self.layer, nn.Linear) else [-1] + [1] * len(self.layer.kernel_size)
        bias, m0, exponent = (of.reshape(wide) for of in (self.bias, self.m0, self.exponent))
        scaled = rescale(total + bias, m0, exponent, rounding=self.rounding)
        return (scaled + self.z3).clamp(self.low, self.high).int()


class Clamp(nn.Module):
    """ReLU or ReLU6 on integers: no less than Z, no more than Z + 6 / S.

    layer: an ``nn.ReLU`` or ``nn.ReLU6``.
    grid: of the integers.
    fused: whether the layer before it has the same grid; not used here.
    """

    def __init__(self, layer: nn.Module, grid: Grid, fused: bool) -> None:
        super().__init__()
        six = grid.quantize(torch.tensor(6.0)).item() if isinstance(layer, nn.ReLU6) else grid.high
        self.least, self.most = grid.zero.item(), six

    def forward(self, q: Tensor) -> Tensor:
        return q.clamp(self.least, self.most)


class Sum(nn.Module):
    """Adds integers of two grids.

    Both sides go to a common scale, 20 bits finer than the coarser of the two; their sum goes to the grid after it.

    a: grid of one side.
    b: grid of the other.
    after: grid of the sum.
    rounding: "twice" or "once", see :func:`rescale`.
    """

    def __init__(self, a: Grid, b: Grid, after: Grid, *, rounding: str = "twice") -> None:
        super().__init__()
        self.rounding = rounding
        twice = 2 * torch.maximum(a.scale, b.scale).double()
        self.zeros = [side.zero.item() for side in (a, b)]
        self.factors = [multiplier(side.scale.double() / twice) for side in (a, b)]
        self.after, self.out = after, multiplier(twice / (2**20 * after.scale.double()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        wide = [(side - zero) << 20 for side, zero in zip((a, b), self.zeros, strict=True)]
        first, second = (
            rescale(q, *factor, rounding=self.rounding) for q, factor in zip(wide, self.factors, strict=True)
        )
        total = rescale(first + second, *self.out, rounding=self.rounding)
        return (total + self.after.zero).clamp(self.after.low, self.after.high).int()


class Mean(nn.Module):
    """Average pooling over windows of one size: a sum, times M = S_1 / (N S_3).

    layer: an ``nn.AvgPool2d`` or ``nn.AdaptiveAvgPool2d``.
    before: grid of its input.
    after: grid of its output.
    rounding: "twice" or "once", see :func:`rescale`.
    """

    def __init__(self, layer: graph.MEANS, before: Grid, after: Grid, *, rounding: str = "twice") -> None:
        super().__init__()
        self.layer, self.before, self.after, self.rounding = layer, before, after, rounding

    def forward(self, q: Tensor) -> Tensor:
        window, stride = _window(self.layer, q.shape[-2:])
        total = functional.avg_pool2d((q - self.before.zero).long(), window, stride, divisor_override=1)
        factor = multiplier(self.before.scale.double() / (math.prod(window) * self.after.scale.double()))
        scaled = rescale(total, *factor, rounding=self.rounding)
        return (scaled + self.after.zero).clamp(self.after.low, self.after.high).int()


def _window(layer: graph.MEANS, size: torch.Size) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Height and width of the windows that are averaged, and the steps between them."""

    def pair(value: Any) -> tuple[Any, ...]:
        return value if isinstance(value, tuple) else (value, value)

    if isinstance(layer, nn.AvgPool2d):
        return pair(layer.kernel_size), pair(layer.stride)
    outputs = [have if wanted is None else wanted for wanted, have in zip(pair(layer.output_size), size, strict=True)]
    if any(have % wanted for have, wanted in zip(size, outputs, strict=True)):
        raise ValueError(f"maps of {tuple(size)} do not divide into {tuple(outputs)} windows of one size")
    window = tuple(have // wanted for have, wanted in zip(size, outputs, strict=True))
    return window, window


def convert(simulated: fx.GraphModule, *, rounding: str = "twice") -> fx.GraphModule:
    """Convert a simulated network into one that computes in int32; images and logits are float.

    simulated: what :func:`lib.quantization.affine.simulate` returned, calibrated; it is left as it was.
    rounding: "twice" or "once", see :func:`rescale`.

    Returns the new network.
    Raises ValueError for another rounding, for a network that is not simulated or not calibrated, and for one whose
    sums may leave int32 (jacob2018quantization, section 2).

    >>> from lib.quantization.affine import calibrate, simulate
    >>> images = torch.tensor([[0.0, 1.0], [1.0, 0.5]])
    >>> simulated = calibrate(simulate(nn.Linear(2, 3)), images)
    >>> [type(module).__name__ for module in convert(simulated).children()]
    ['Quantize', 'Layer', 'Dequantize']
    """
    check_one_of("rounding", rounding, ROUNDINGS)
    parts = {name: partial(part, rounding=rounding) for name, part in (("layer", Layer), ("sum", Sum), ("mean", Mean))}
    return lowered(simulated, parts | {"quantize": Quantize, "clamp": Clamp, "dequantize": Dequantize})


def round_biases(simulated: fx.GraphModule) -> fx.GraphModule:
    """Give each bias the value that the integer network has for it, a multiple of S_1 S_2. In place.

    With it, and with ``rounding="once"``, the simulated and the integer network have the same integers everywhere,
    except for ties and for float rounding.

    simulated: what :func:`lib.quantization.affine.simulate` returned, calibrated.

    Returns the network.
    Raises ValueError for a network that is not simulated or not calibrated, and for one whose sums may leave int32.
    """
    for part in convert(simulated).modules():
        if isinstance(part, Layer) and part.layer.bias is not None:
            bias = layer_named(simulated, part.name).bias
            assert bias is not None
            bias.data.copy_(part.bias * part.bias_scale)
    return simulated


def lowered(simulated: fx.GraphModule, parts: Mapping[str, Callable[..., nn.Module | None]]) -> fx.GraphModule:
    """Copy the graph of a simulated network with each module replaced by the part that does its work on integers.

    simulated: what :func:`lib.quantization.affine.simulate` returned, calibrated; it is left as it was.
    parts: makers of modules: "quantize" and "dequantize" (grid), "layer" (name, layer, grid before, grid after), "sum"
        (two grids before, grid after), "mean" (layer, grid before, grid after), "clamp" (layer, grid, whether the layer
        before has the same grid), which returns None where nothing is left to do.

    Returns the new network. Raises ValueError for a network that is not simulated or not calibrated.
    """
    if not isinstance(simulated, fx.GraphModule) or not any(isinstance(m, Activation) for m in simulated.modules()):
        raise ValueError(f"{type(simulated).__name__} has no grids: accepted is what simulate returns, calibrated")
    network = copy.deepcopy(simulated).eval()
    grids: dict[fx.Node, Grid] = {}

    def after(node: fx.Node) -> Grid:  # the next grid: a ReLU may stand between
        reader = next(iter(node.users))
        module = graph.module_of(network, reader)
        return module.grid() if isinstance(module, Activation) else after(reader)

    for node in list(network.graph.nodes):
        module, inputs, new = graph.module_of(network, node), node.all_input_nodes, None
        if node.op in ("placeholder", "output"):
            continue
        real = inputs[0].op == "placeholder"
        if inputs[0] in grids:
            grids[node] = grids[inputs[0]]
        if isinstance(module, Activation):
            grids[node] = module.grid()
            new = parts["quantize"](grids[node]) if real else None
        elif isinstance(module, graph.LAYERS):
            grids[node] = after(node)
            new = parts["layer"](node.target, module, grids[inputs[0]], grids[node])
        elif isinstance(module, graph.Sum):
            grids[node] = after(node)
            new = parts["sum"](*(grids[side] for side in node.args if isinstance(side, fx.Node)), grids[node])
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
    network.add_module("output_real", parts["dequantize"](grids[output.all_input_nodes[0]]))
    with network.graph.inserting_before(output):
        output.args = (network.graph.call_module("output_real", output.args),)
    network.delete_all_unused_submodules()
    network.recompile()
    return network.eval()
