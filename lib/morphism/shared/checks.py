"""Which networks can be morphed, and the proof that a morph keeps the function."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lib import weights
from lib.morphism.shared.layers import Layer
from lib.structure import proof
from lib.structure.apart import answers, copied, twin
from lib.structure.tracing import check as check_dense


def check(model: nn.Module, example: Tensor) -> None:
    """Raise ValueError for a network that cannot be morphed at all, and for inputs that are not an example.

    model: any network.
    example: (n, ...).

    >>> check(nn.Sequential(nn.Linear(2, 3)), torch.zeros(1, 2))
    """
    check_dense(model, example)
    if isinstance(model, Layer):
        raise ValueError(f"{type(model).__name__} is a bare layer: wrap it, as in nn.Sequential(layer)")
    for name, value in model.named_parameters():
        if value.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"{name!r} is of {value.dtype}, which rounds shared weights too much: morph the network in"
                " float32 or float64, and convert it afterwards"
            )


def check_noise(noise: float) -> None:
    """Raise ValueError for noise that is negative or not finite.

    noise: 0 or more.

    >>> check_noise(0.0)
    """
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise must be a number of 0 or more, not {noise}")


def check_untied(model: nn.Module, name: str) -> None:
    """Raise ValueError for a module that shares a tensor with a part of the network outside of it.

    Using a module under several names does not count as sharing.

    model: any network.
    name: of one of its modules.

    >>> check_untied(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "0")
    """
    module = model.get_submodule(name)
    held = {id(value) for value in (*module.parameters(), *module.buffers())}
    places = [place for place, one in model.named_modules(remove_duplicate=False) if one is module]
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for other, value in tensors:
        if id(value) in held and not any(other.startswith(f"{place}.") for place in places):
            raise ValueError(
                f"layer {name!r} shares a tensor with {other!r}, which a morph would end: give each its own first"
            )


def draw(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers on the CPU, so that they are the same on every device.

    shape: of the result.
    like: whose type and device the result has.
    generator: of the CPU.
    """
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(like)


def replaced(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Copy a network with another module in place of one of its own, under all names that this one has.

    model: not changed.
    name: of the module to replace.
    module: that takes its place, itself not copied.

    Raises ValueError for a module that shares tensors with others, and as :func:`lib.weights.replace` does.

    >>> replaced(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "1", nn.Tanh())[1]
    Tanh()
    """
    check_untied(model, name)
    return weights.replace(copied(model, {}), name, module)


def proved(model: nn.Module, morphed: nn.Module, example: Tensor, what: str, *, training: bool = True) -> nn.Module:
    """Return the morphed network, once both gave the same answers in evaluation and in training mode.

    In training mode, batch norm uses batch statistics; dropout and stochastic depth are held still. Outputs agree where
    they differ by less than 1e-4 of the largest value, or where rounding is magnified, by 1e-6 of it in float64.

    model: the network; not changed.
    morphed: the morphed one; not changed.
    example: inputs, (n, ...), of which up to eight are used; random ones where they are constant.
    what: names the morph, for the error.
    training: whether training mode is compared; default True.

    Raises ValueError where they differ, or where an output is not finite.

    >>> model = nn.Sequential(nn.Linear(2, 3))
    >>> proved(model, replaced(model, "0", model[0]), torch.zeros(1, 2), "the same layer")
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
    )
    """
    if training:
        reason = proof.difference(model, morphed, (), example).replace("without them the network", "the larger network")
    else:
        gap = largest_difference(model, morphed, _varied(example[:8]))
        reason = f"the outputs differ by {gap:.1e} of the largest one" if not gap <= 1e-4 else ""
    if reason:
        raise ValueError(f"{what} would change what {type(model).__name__} computes: {reason}")
    return morphed


def _varied(inputs: Tensor) -> Tensor:
    """The inputs, or random ones where they are constant or not finite: those would hide differences."""
    if not inputs.is_floating_point() or 0 < float(inputs.double().std(correction=0)) < torch.inf:
        return inputs
    return draw(inputs.shape, inputs, torch.Generator().manual_seed(0))


def largest_difference(model: nn.Module, morphed: nn.Module, inputs: Tensor, *, training: bool = False) -> float:
    """Compare what two networks compute: the largest difference of their outputs, in units of the largest output.

    model, morphed: the two networks; not changed.
    inputs: that both take, (n, ...).
    training: whether in training mode, with batch statistics but without dropout; default False, evaluation mode.

    Returns NaN or infinity where an output is not finite. Raises ValueError where their outputs have different shapes.

    >>> double = nn.Sequential(nn.Linear(2, 2, bias=False))
    >>> largest_difference(double, copied(double, {}), torch.ones(1, 2))
    0.0
    """
    pair = [answers(twin(network), inputs, training=training) for network in (model, morphed)]
    shapes = [[tuple(value.shape) for value in outputs] for outputs in pair]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the outputs have the shapes {shapes[0]} and {shapes[1]}: they cannot be compared")
    scale = _largest(pair[0])
    gap = _largest(a - b for a, b in zip(*pair, strict=True))
    return gap / scale if scale else (torch.inf if gap else 0.0)


def _largest(values: Iterable[Tensor]) -> float:
    """The largest magnitude; NaN where there is one, which Python's max would lose."""
    each = [float(value.abs().max()) for value in values]
    return float(torch.tensor([0.0, *each], dtype=torch.float64).max())
