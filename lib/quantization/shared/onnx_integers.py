"""Networks of 8-bit integers as ONNX files, in the form that runtimes look for: QuantizeLinear and DequantizeLinear.

Each layer is written as three operations: integers to real numbers, the layer, and real numbers back to integers
(jacob2018quantization). A runtime replaces the three by one on integers. In the file, weights are int8, biases int32,
and the activations between layers uint8. This needs the packages of the extra ``onnx``.
"""

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from lib import exporting, running
from lib.arguments import check_sizes
from lib.quantization.affine import form_on_grid
from lib.quantization.shared import integer_layers, operations
from lib.quantization.shared.activation import Activation, activations
from lib.quantization.shared.fixed_types import FixedTypes
from lib.quantization.shared.grids import Grid
from lib.quantization.shared.lowering import Parts, lowered
from lib.weights import layers


def export(simulated: fx.GraphModule, path: str | Path, images: Tensor, *, opset: int = 18, steps: int = 8) -> int:
    """Write a network of 8-bit integers to an ONNX file, and check that onnxruntime computes the same from it.

    simulated: what :func:`lib.quantization.affine.simulate` returned for 8 bits, calibrated, float32; left unchanged.
    path: of the file; an existing file is replaced.
    images: (n, channels, height, width) of float32, n 1 or more. The file takes any n, but only this height and width.
    opset: version of the operators, 18 or more, default 18.
    steps: how many steps of its grid an output may differ by, 1 or more, default 8. A class may differ only if the
        simulated network's outputs for both classes are that close.

    The outputs are not equal bit for bit. Biases are rounded to int32. A runtime multiplies the sum of a layer by one
    float32 number, whereas the simulated network adds up float32 numbers. A sum halfway between two integers may round
    to either, and each layer passes such a step on to the next: one or two steps in all are usual, a few more in deep
    networks. Without 8-bit dot products (VNNI) some kernels clip large sums, so a file that was right on one processor
    may be less accurate on another.

    Returns the size of the file in bytes. Raises ValueError for arguments out of range, for a network that is not
    simulated, calibrated, 8-bit and float32, for one that torch cannot export or onnxruntime cannot run, and if the
    outputs differ by more; ModuleNotFoundError if a package is not installed. In all these cases no file is written.

    >>> from lib.quantization.affine import simulate
    >>> export(simulate(nn.Linear(2, 3)), "small.onnx", torch.rand(4, 2))
    Traceback (most recent call last):
    ValueError: no image has gone through this network: calibrate it with at least one
    """
    check_sizes({"steps": steps})
    network = quantized_network(simulated)
    with tempfile.TemporaryDirectory(dir=Path(path).parent, prefix=".onnx") as folder:
        file = Path(folder, "network.onnx")
        # This only checks that the file runs and gives numbers; below, their distance is measured in steps.
        exporting.export(NetworkOfIntegers(simulated, network), file, images, opset=opset, tolerance=1e30)
        size = _without_notes(file)
        for batch in (images, images[:1]):
            with running.evaluating(simulated), torch.no_grad():
                wanted = running.logits(simulated, batch).cpu()
            _check(wanted, _computed(file, batch), activations(simulated)[-1].grid().scale.item(), steps)
        file.replace(path)
    return size


def quantized_network(simulated: fx.GraphModule) -> fx.GraphModule:
    """Copy a simulated network with ONNX's operations between its modules. Only an exporter can use it.

    simulated: see :func:`export`; left unchanged.

    Raises ValueError for a network that is not simulated, calibrated, 8-bit and float32.

    >>> from lib.quantization.affine import calibrate, simulate
    >>> simulated = calibrate(simulate(nn.Sequential(nn.Linear(2, 3), nn.ReLU())), torch.rand(4, 2))
    >>> [type(part).__name__ for part in quantized_network(simulated).children()]
    ['Quantize', 'Layer', 'Dequantize']
    """
    makers: Parts = {
        "quantize": Quantize,
        "dequantize": lambda grid, dtype: Dequantize(grid),
        "layer": Layer,
        **dict.fromkeys(("sum", "product", "mean", "concatenation", "table", "pool", "spread"), ByFloat),
        "clamp": Clamp,
        "fused_clamp": fused_clamp,
    }
    network = lowered(simulated, makers)
    for name, module in simulated.named_modules():
        if isinstance(module, Activation) and module.bits != 8:
            raise ValueError(f"activation {name!r} has {module.bits} bits: the file takes 8")
    for name, layer in layers(simulated):
        if layer.weight.dtype != torch.float32:
            raise ValueError(f"the weight of layer {name!r} is {layer.weight.dtype}: call .float() first")
    return network.cpu()


class NetworkOfIntegers(nn.Module):
    """Answers as the simulated network does, but shows ONNX's operations to torch's exporter.

    simulated: the network.
    network: made from it by :func:`quantized_network`.
    """

    def __init__(self, simulated: fx.GraphModule, network: fx.GraphModule) -> None:
        super().__init__()
        self.network, self._simulated = network, (simulated,)  # in a tuple, so that its weights stay out of the file

    def forward(self, images: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return self.network(images)
        with running.evaluating(self._simulated[0]):
            return self._simulated[0](images)


class Scale(FixedTypes):
    """A grid of unsigned integers, in the form that ONNX's operations take.

    grid: of 8 bits.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.hold("scale", grid.scale)
        self.hold("zero", (grid.zero - grid.low).to(torch.uint8))

    def quantized(self, r: Tensor) -> Tensor:
        """Round real numbers to integers."""
        inputs = (r, self.scale, self.zero)
        return torch.onnx.ops.symbolic("QuantizeLinear", inputs, dtype=torch.uint8, shape=r.shape)

    def real(self, q: Tensor) -> Tensor:
        """Return the real numbers that integers represent."""
        return real(q, self.scale, self.zero)


def real(q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Turn integers into the real numbers that they represent, as an ONNX operation.

    q: of any shape.
    scale, zero: numbers, or one for each entry of the first dimension.
    """
    inputs = (q, scale, zero)
    attributes: dict[str, Any] = {"axis": 0}  # which has no effect for a single scale
    return torch.onnx.ops.symbolic("DequantizeLinear", inputs, attributes, dtype=torch.float32, shape=q.shape)


class Quantize(Scale):
    """Turns the images into integers."""

    def forward(self, r: Tensor) -> Tensor:
        return self.quantized(r)


class Dequantize(Scale):
    """Turns integers into the outputs."""

    def forward(self, q: Tensor) -> Tensor:
        return self.real(q)


class ByFloat(nn.Module):
    """An operation between integers: a sum, a product, a mean, a concatenation, a function of one number.

    name: of the layer.
    layer: does the operation on real numbers.
    before: the grids of its inputs.
    after: the grid of its output.
    """

    def __init__(self, name: str, layer: nn.Module, before: list[Grid], after: Grid) -> None:
        super().__init__()
        self.before, self.after = nn.ModuleList(map(Scale, before)), Scale(after)
        self.layer = copy.deepcopy(layer)

    def forward(self, *parts: Tensor) -> Tensor:
        scales: Any = self.before  # Scale, each
        return self.after.quantized(self.layer(*(scale.real(q) for scale, q in zip(scales, parts, strict=True))))


class Layer(FixedTypes):
    """A linear or convolution layer. Raises ValueError if its weight is not 8-bit or a sum may overflow int32."""

    weight: Tensor
    weight_scale: Tensor
    weight_zero: Tensor
    bias: Tensor
    bias_scale: Tensor
    bias_zero: Tensor

    def __init__(self, name: str, layer: operations.LAYERS, before: list[Grid], after: Grid) -> None:
        super().__init__()
        form, _ = form_on_grid(layer, name)
        if form.bits != 8:
            raise ValueError(f"the weight of layer {name!r} has {form.bits} bits: the file takes 8")
        whole = integer_layers.Layer(name, layer, before, after)
        scale = (whole.bias_scale / before[0].scale.double()).float()
        one = bool((scale == scale[0]).all() and (whole.z2 == whole.z2[0]).all())
        self.before, self.after = Scale(before[0]), Scale(after)
        self.hold("weight", whole.q2.to(torch.int8))
        self.hold("weight_scale", scale[0] if one else scale)
        self.hold("weight_zero", (whole.z2[0] if one else whole.z2).to(torch.int8))
        self.hold("bias", whole.bias)
        self.hold("bias_scale", self.before.scale * self.weight_scale)
        self.hold("bias_zero", torch.zeros_like(self.bias_scale, dtype=torch.int32))
        self.bare = _without_weights(layer)
        self.border: tuple[list[int], str] | None = None
        if not isinstance(layer, nn.Linear) and layer.padding_mode != "zeros":  # integers are repeated, not numbers
            self.border = list(layer._reversed_padding_repeated_twice), layer.padding_mode
            self.bare.padding, self.bare.padding_mode = (0,) * len(layer.kernel_size), "zeros"

    def forward(self, q: Tensor) -> Tensor:
        weight = real(self.weight, self.weight_scale, self.weight_zero)
        bias = real(self.bias, self.bias_scale, self.bias_zero)
        layer = self.bare
        if isinstance(layer, nn.Linear):
            rows = q if q.dim() == 2 else q.reshape(-1, q.shape[-1])  # integer kernels take no other shape
            outputs = self.after.quantized(functional.linear(self.before.real(rows), weight, bias))
            return outputs if q.dim() == 2 else outputs.reshape(*q.shape[:-1], len(self.weight))
        single = isinstance(layer, operations.PerFeature) and q.dim() == 2
        q = functional.pad(q, *self.border) if self.border else q
        r = self.before.real(q[..., None] if single else q)
        outputs = self.after.quantized(layer._conv_forward(r, weight, bias))
        return outputs[..., 0] if single else outputs


class Clamp(FixedTypes):
    """ReLU, ReLU6 or Hardtanh, on the integers themselves.

    name: of the layer.
    clamp: the module.
    before: the grids of its inputs.
    after: the grid.
    """

    def __init__(self, name: str, clamp: nn.Module, before: list[Grid], after: Grid) -> None:
        super().__init__()
        self.ends = [q - after.low for q in after.quantize(torch.tensor(operations.bounds(clamp))).tolist()]

    def forward(self, q: Tensor) -> Tensor:
        return q.clamp(*self.ends)


def fused_clamp(name: str, clamp: nn.Module, before: list[Grid], after: Grid) -> Clamp | None:
    """The clamp right after an operation with the same grid; None if the range of uint8 has clipped already.

    name: of the layer.
    clamp: the module.
    before: the grids of its inputs.
    after: the grid.
    """
    part = Clamp(name, clamp, before, after)
    return part if part.ends != [0, 255] else None


def _without_weights(layer: Any) -> Any:
    """Copy a layer without its numbers: only how it moves over its input is kept."""
    bare = copy.deepcopy(layer)
    bare.parametrizations.clear()
    bare.register_parameter("bias", None)
    return bare


def _without_notes(file: Path) -> int:
    """Remove the notes on where each operation came from, which name paths of this machine; return the bytes left."""
    import onnx

    model = onnx.load(file)
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
    return file.write_bytes(model.SerializeToString())


def _computed(file: Path, batch: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": batch.cpu().numpy()})[0])


def _check(wanted: Tensor, computed: Tensor, scale: float, steps: int) -> None:
    """Raise ValueError if outputs or classes differ by more than ``steps`` steps."""
    worst = round(float((computed - wanted).abs().max()) / scale)
    if worst > steps:
        raise ValueError(f"the ONNX file's outputs differ by {worst} steps of their grid: at most {steps} are accepted")
    if wanted.dim() > 1:
        found = wanted.gather(1, computed.argmax(1, keepdim=True))
        behind = round(float((wanted.amax(1, keepdim=True) - found).max()) / scale)
        if behind > steps:
            raise ValueError(f"the ONNX file gives another class, {behind} steps lower: at most {steps} are accepted")
