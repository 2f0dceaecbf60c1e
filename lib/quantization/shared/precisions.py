"""One network in float32, in bfloat16 and in 8-bit integers, ready to be compared: all read and answer in float32."""

import copy

import torch
from torch import Tensor, fx, nn

from lib import running
from lib.quantization.affine import calibrate, simulate
from lib.quantization.shared import graph, integer_network, torch_kernels, transposed

BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # instructions that multiply bfloat16 numbers, as /proc/cpuinfo says


class Bfloat16(nn.Module):
    """A network that computes in bfloat16: float32 with 8 binary digits in place of 24, and the same exponents.

    network: of floats; it is left as it was.

    >>> layer = Bfloat16(nn.Linear(3, 2))
    >>> layer.network.weight.dtype, layer(torch.zeros(1, 3)).dtype
    (torch.bfloat16, torch.float32)
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(torch.bfloat16)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.to(torch.bfloat16)).float()


def integers(simulated: fx.GraphModule) -> nn.Module:
    """Convert a network to 8-bit integers that run on torch's kernels, or in int32 where those do not add exactly.

    simulated: what :func:`lib.quantization.affine.simulate` made of a network, calibrated; left as it was.

    Raises ValueError for what the conversion refuses, by the layer.

    >>> images = torch.rand(8, 4)
    >>> integers(calibrate(simulate(nn.Linear(4, 3)), images))(images).shape
    torch.Size([8, 3])
    """
    convert = torch_kernels.convert_to_kernels if torch_kernels.kernels_available() else integer_network.convert
    return convert(simulated)


def forms(model: nn.Module, simulated: fx.GraphModule, images: Tensor) -> dict[str, nn.Module]:
    """Build three forms of one network that differ in their numbers alone.

    The two forms in floats have batch norm folded as int8 has it, and channels last in memory where that is safe.

    model: the network, of float32; left as it was.
    simulated: what :func:`lib.quantization.affine.simulate` made of it, calibrated; left as it was.
    images: (n, channels, height, width), or what else the network takes, to try the memory layout on.

    Returns the forms "float32", "bfloat16" and "int8", which runs on torch's kernels where they add exactly, and in
    int32 elsewhere. Each takes float32 images and gives float32.
    Raises ValueError for a network of another type, and for what :func:`graph.traced` and the conversion refuse.

    >>> model, images = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(8, 4)
    >>> {name: form(images).dtype for name, form in forms(model, calibrate(simulate(model), images), images).items()}
    {'float32': torch.float32, 'bfloat16': torch.float32, 'int8': torch.float32}
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise ValueError(f"{name} is {parameter.dtype}: accepted is float32, with which the others are compared")
    int8, network = integers(simulated), graph.traced(model)
    transposed.restore(network)  # int8 multiplies the zeros between the numbers, floats need not
    layout = running.layout(network, images)
    float32 = network.to(memory_format=layout)  # type: ignore[call-overload]  # missing in torch's types
    bfloat16 = Bfloat16(network).to(memory_format=layout)  # type: ignore[call-overload]
    return {"float32": float32, "bfloat16": bfloat16.eval(), "int8": int8}


@torch.no_grad()
def refusal(model: nn.Module, images: Tensor) -> str:
    """Convert a network to int8 from end to end, and say why where that is refused.

    model: any network; left as it was.
    images: (n, channels, height, width), or what else the network takes: to calibrate on, and to answer.

    Returns "" where the network converts, to torch's kernels as well where there are any, and answers for the images;
    else the sentence of the refusal.

    >>> refusal(nn.Sequential(nn.Linear(4, 3), nn.Tanh()), torch.rand(2, 4))
    ''
    >>> refusal(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), torch.rand(2, 4)).split(":")[0]
    '1 (LayerNorm) has no integer form here'
    """
    try:
        simulated = simulate(model)
        calibrate(simulated, images)
        network = integer_network.convert(simulated)
        if torch_kernels.kernels_available():
            network = torch_kernels.convert_to_kernels(simulated)
        network(images[:1])
    except ValueError as error:
        return " ".join(str(error).split())
    return ""


def bfloat16_here() -> str:
    """Say in words how this processor multiplies bfloat16 numbers, as far as it tells; after "this processor"."""
    instructions = torch_kernels.instructions()
    if not instructions:
        return "does not say whether it has instructions for bfloat16"
    if instructions.isdisjoint(BFLOAT16):
        return "has no instructions for bfloat16, which is slow without them"
    return f"has instructions for bfloat16 ({', '.join(sorted(instructions.intersection(BFLOAT16)))})"
