r"""Affine quantization: a small integer q represents the real number r = S (q - Z), so products can be integer too.

.. math:: q = \mathrm{clip}\big(\mathrm{round}(r / S) + Z,\; q_{min},\; q_{max}\big), \qquad r \approx S\,(q - Z)

(jacob2018quantization, section 2.1). For values in [a, b], a <= 0 <= b, and B bits,
:math:`S = (b - a) / (2^B - 1)` and :math:`Z = \mathrm{round}(q_{min} - a / S)`: the range is nudged so that zero is on
the grid. Symmetric grids have Z = 0 and :math:`S = \max(-a, b) / (2^{B-1} - 1)`, and leave out the lowest integer.
An activation tensor has one S and one Z. A weight has one pair, or one for each output channel
(krishnamoorthi2018whitepaper).
Rounding is to nearest, ties to even. The integers are signed: -128..127 for 8 bits.
"""

import copy

import torch
from torch import Tensor, fx, nn

from lib import running
from lib.quantization.shared import graph, in_place
from lib.quantization.shared.activation import Activation, activations, check_precise
from lib.quantization.shared.grids import Grid, checked_bits, grid
from lib.weights import CompressedWeight, Encoding, compress, compressed_form, layers

TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class AffineWeight(CompressedWeight):
    """A dense weight that is rounded to its grid at every use; the grid follows its smallest and largest value.

    Training updates the dense weight.

    bits: 1 to 16, or 2 to 16 if symmetric.
    axis: the dimension that has a grid for each of its entries; None for one grid.
    symmetric: whether Z is 0.
    """

    def __init__(self, bits: int = 8, *, axis: int | None = 0, symmetric: bool = True) -> None:
        super().__init__()
        self.bits = checked_bits(bits, 2 if symmetric else 1, 16)
        self.axis, self.symmetric = axis, symmetric
        # Only the name matters: a state saved with other bits does not load.
        self.register_buffer(f"bits{self.bits}_axis{axis}_{'' if symmetric else 'a'}symmetric", torch.empty(0))

    def extra_repr(self) -> str:
        return f"bits={self.bits}, axis={self.axis}, symmetric={self.symmetric}"

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.detach().clone()

    def grid(self, weight: Tensor) -> Grid:
        """Return the grid of this weight, of shape (1, ..., channels, ..., 1)."""
        others = [d for d in range(weight.dim()) if d != self.axis]
        lower, upper = (end(weight.detach(), dim=others, keepdim=True) for end in (torch.amin, torch.amax))
        return grid(lower, upper, bits=self.bits, symmetric=self.symmetric)

    def forward(self, weight: Tensor) -> Tensor:
        return self.grid(weight).fake(weight)

    def encode(self, weight: Tensor) -> Encoding:
        grid = self.grid(weight)
        tables = {"scale": grid.scale.flatten(), "zero": (grid.zero - grid.low).flatten().float()}
        if self.symmetric:
            tables["zero"] = tables["zero"][:1]
        if self.axis:  # 0 is the default
            tables["axis"] = torch.tensor([float(self.axis)])
        return Encoding({"code": grid.quantize(weight).sub_(grid.low).flatten()}, tables)

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        (axis,) = encoding.whole("axis", 1) if "axis" in encoding.tables else [0]
        wide = [-1 if d == axis else 1 for d in range(len(shape))]
        scale, zero = (encoding.tables[name].reshape(wide) for name in ("scale", "zero"))
        # In place, so that a table of the wrong length cannot broadcast it beyond the weight's shape.
        return encoding.symbols["code"].reshape(shape).float().sub_(zero).mul_(scale)

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {"code": shape.numel()}, {"scale": max(shape), "zero": max(shape), "axis": 1}


def form_on_grid(layer: nn.Module, name: str) -> tuple[AffineWeight, Tensor]:
    """Look up how a layer's weight is rounded.

    layer: a layer of a network that :func:`quantize` or :func:`simulate` returned.
    name: the layer's name, for errors.

    Returns the form, which knows the grid, and the weight before it is rounded.
    Raises ValueError if the weight is not on a grid.

    >>> form, weight = form_on_grid(quantize(nn.Linear(3, 2), bits=4), "fc")
    >>> form, weight.shape
    (AffineWeight(bits=4, axis=0, symmetric=True), torch.Size([2, 3]))
    """
    form, stored = compressed_form(layer) or (None, ())
    if not isinstance(form, AffineWeight):
        raise ValueError(f"the weight of layer {name!r} is not on a grid: accepted is what simulate returns")
    return form, stored[0]


def quantize(model: nn.Module, *, bits: int = 8, per_channel: bool = True, symmetric: bool = True) -> nn.Module:
    """Store weights as integers, with one scale for each output channel or one for the layer. In place.

    Activations are not quantized.

    model: any network.
    bits: of the integers, 1 to 16, or 2 to 16 if symmetric.
    per_channel: whether each output channel has a scale of its own.
    symmetric: whether Z is 0.

    Returns the model. Raises ValueError for bits out of range, and for a model without a layer that has a weight
    (krishnamoorthi2018whitepaper, section 3).

    >>> layer = quantize(nn.Linear(300, 2), bits=3)
    >>> [len(row.unique()) for row in layer.weight]  # -3 to 3 times the scale of the row
    [7, 7]
    """

    def form(name: str, layer: object) -> AffineWeight:
        axis = (1 if isinstance(layer, TRANSPOSED) else 0) if per_channel else None
        return AffineWeight(bits, axis=axis, symmetric=symmetric)

    return compress(model, form)


def simulate(
    model: nn.Module,
    *,
    bits: int = 8,
    edge_bits: int = 8,
    per_channel: bool = True,
    symmetric: bool = True,
) -> fx.GraphModule:
    """Copy a network so that it computes in float with the values of an integer network. Calibrate the copy next.

    Batch norm is folded into the layer before it, or becomes a layer of its own if another operation comes before it.
    An operation that makes new values shares one grid with the ReLU or other clamp after it, if nothing else reads its
    output. The parts of a concatenation are rounded once more, to one common grid.

    model: a network, float32 or float64, with one input and one output, of linear and convolution layers, also
        transposed ones, batch norm, ReLU and other clamps, SiLU, sigmoid and other functions of one number, max and
        average pooling, means, sums, products, concatenation, flatten and other rearrangements, and dropout; left
        unchanged.
    bits: of the weights and of the activations between layers, 1 to 16, or 2 to 16 if symmetric.
    edge_bits: of the network's input and output, 1 to 32.
    per_channel: whether each output channel of a layer has a scale of its own.
    symmetric: whether the weights' grids have Z = 0.

    Returns the simulated network. The activations' ranges are its only new state; ``state_dict`` and files hold them.
    Raises ValueError for bits out of range, for weights of other types, and for a network that cannot be traced or
    contains another operation; the message names it and its layer (jacob2018quantization, section 3).

    >>> network = simulate(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), bits=4)
    >>> len(activations(network))  # of the input and of both layers
    3
    """
    bits, edge_bits = checked_bits(bits, 2 if symmetric else 1, 16), checked_bits(edge_bits, 1, 32)
    for name, parameter in model.named_parameters():
        check_precise(name, parameter)
    network = graph.traced(model)
    in_place.switch_off(network)
    graph.insert(network, lambda edge: Activation(edge_bits if edge else bits))
    quantize(network, bits=bits, per_channel=per_channel, symmetric=symmetric)
    return network.to(next(network.parameters()).device)


@torch.no_grad()
def calibrate(
    network: nn.Module,
    images: Tensor,
    *,
    percentile: float = 100.0,
    decay: float | None = None,
    batch_size: int = 100,
) -> nn.Module:
    """Set the range of each activation from images, and round to it from then on. In place.

    network: what :func:`simulate` returned.
    images: (n, channels, height, width), or whatever the network takes; one or more, finite.
    percentile: above 50, up to 100: 100 takes the extremes, 99.9 leaves out a thousandth of the values on either side.
    decay: None takes the widest range of all batches; a number in [0, 1) takes their moving average.
    batch_size: images per batch, 1 or more.

    Returns the network. Raises ValueError for no images, for images that are not finite or do not fit, and for
    arguments out of range; the ranges are then unchanged.

    >>> network = calibrate(simulate(nn.Linear(2, 1)), torch.tensor([[0.0, 3.0], [1.0, -1.0]]))
    >>> [end.item() for end in (activations(network)[0].lower, activations(network)[0].upper)]
    [-1.0, 3.0]
    """
    if len(images) == 0:
        raise ValueError("there are no images to calibrate with: at least one is needed")
    if not 50 < percentile <= 100 or not (decay is None or 0 <= decay < 1):
        raise ValueError(f"percentile must be in (50, 100] and decay in [0, 1), not {percentile} and {decay}")
    if not torch.isfinite(images).all():
        raise ValueError("the images to calibrate with hold NaN or infinity: finite ones are needed")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    calibrated, before = activations(network), copy.deepcopy(network.state_dict())
    for activation in calibrated:
        activation.percentile, activation.decay = percentile, decay
        activation.observing, activation.quantizing = True, False
        activation.lower.fill_(torch.inf)
        activation.upper.fill_(-torch.inf)
    try:
        with running.evaluating(network):
            for batch in images.split(batch_size):
                running.logits(network, batch)
        for name, module in network.named_modules():
            if isinstance(module, Activation) and not torch.stack([module.lower, module.upper]).isfinite().all():
                raise ValueError(f"what flows through {name!r} is not finite, or has no finite range, for these images")
    except Exception:
        network.load_state_dict(before)
        raise
    finally:
        for activation in calibrated:
            activation.observing, activation.quantizing = False, True
    return network


@torch.no_grad()
def correct_biases(network: fx.GraphModule, model: nn.Module, images: Tensor) -> fx.GraphModule:
    """Subtract from each bias the shift that rounding causes in the layer's mean output, first layer first. In place.

    network: what :func:`simulate` made of ``model``, calibrated; layers without a bias are left alone.
    model: the network in float; left unchanged.
    images: (n, channels, height, width), over which the means are taken; one or more.

    Returns the network. Raises ValueError for no images, and for a layer that is used more than once.

    >>> model, images = nn.Linear(5, 3), torch.rand(10, 5)
    >>> network = correct_biases(calibrate(simulate(model, bits=2), images), model, images)
    >>> network.get_submodule("0").bias.shape
    torch.Size([3])
    """
    if len(images) == 0:
        raise ValueError("there are no images to correct biases with: at least one is needed")
    biased = [(name, layer, layer.bias) for name, layer in layers(network) if layer.bias is not None]
    for name, *_ in biased:
        if (uses := len(network.graph.find_nodes(op="call_module", target=name))) > 1:
            raise ValueError(f"layer {name!r} is used {uses} times: one bias cannot correct the means of all")
    original = graph.traced(model)
    in_place.switch_off(original)  # a layer's output must not be overwritten before its mean is taken
    with running.captured(original, [name for name, *_ in biased]) as exact, running.evaluating(network):
        running.logits(original, images)
        for name, layer, bias in biased:
            with running.captured(network, [name]) as rounded:
                running.logits(network, images)
            gap = exact.outputs[name] - rounded.outputs[name]
            outputs = gap.dim() - 1 if isinstance(layer, nn.Linear) else 1
            bias.add_(gap.mean([d for d in range(gap.dim()) if d != outputs]))
    return network
