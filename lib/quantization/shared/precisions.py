"""One network in float32, bfloat16 and 8-bit integers for comparison; all three take and return float32."""

import copy

import torch
from torch import Tensor, fx, nn

from lib import running
from lib.quantization.affine import calibrate, simulate
from lib.quantization.shared import graph, integer_network, torch_kernels, transposed

BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # instructions that multiply bfloat16 numbers, as named in /proc/cpuinfo


class Bfloat16(nn.Module):
    """A network that computes in bfloat16: the exponents of float32, but 8 binary digits instead of 24.

    network: of floats; left unchanged.

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
    """Build three forms of one network that differ only in their type of number.

    Like int8, the two float forms have batch norm folded; they keep channels last in memory if that is safe.

    model: the network, of float32; left unchanged.
    simulated: what :func:`lib.quantization.affine.simulate` made of it, calibrated; left unchanged.
    images: (n, channels, height, width), or whatever the network takes, to try the memory layout on.

    Returns the forms by name, "float32", "bfloat16" and "int8". The last runs on torch's kernels if they add exactly
    here, otherwise in int32. Each takes and returns float32.
    Raises ValueError for a network of another type, and for what :func:`graph.traced` and the conversion refuse.

    >>> model, images = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(8, 4)
    >>> {name: form(images).dtype for name, form in forms(model, calibrate(simulate(model), images), images).items()}
    {'float32': torch.float32, 'bfloat16': torch.float32, 'int8': torch.float32}
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise ValueError(f"{name} is {parameter.dtype}: accepted is float32, with which the others are compared")
    int8, network = integers(simulated), graph.traced(model)
    transposed.restore(network)  # int8 multiplies the inserted zeros, floats need not
    layout = running.layout(network, images)
    float32 = network.to(memory_format=layout)  # type: ignore[call-overload]  # missing in torch's types
    bfloat16 = Bfloat16(network).to(memory_format=layout)  # type: ignore[call-overload]
    return {"float32": float32, "bfloat16": bfloat16.eval(), "int8": int8}


@torch.no_grad()
def refusal(model: nn.Module, images: Tensor) -> str:
    """Try to convert a network to int8 from end to end, and return why that is refused.

    model: any network; left unchanged.
    images: (n, channels, height, width), or whatever the network takes, to calibrate on; the first is run as a test.

    Returns "" if the network converts (to torch's kernels as well, if they add exactly here) and runs; otherwise the
    message of the refusal.

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
    """Say whether the processor has instructions for bfloat16, in words that follow "this processor"."""
    instructions = torch_kernels.instructions()
    if not instructions:
        return "does not say whether it has instructions for bfloat16"
    if instructions.isdisjoint(BFLOAT16):
        return "has no instructions for bfloat16, which is slow without them"
    return f"has instructions for bfloat16 ({', '.join(sorted(instructions.intersection(BFLOAT16)))})"
