"""Multiply-adds of a forward pass, by the module that runs them, whether a layer or a function multiplies."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

aten = torch.ops.aten
Shape = tuple[int, ...]
TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d | TRANSPOSED


def _of_matrix(matrix: Shape, *_: object, **__: object) -> int:
    return 2 * math.prod(matrix)


# Products that torch's counter does not know: shapes of the arguments -> operations, two for each multiply-add.
PRODUCTS: dict[Any, Callable[..., int]] = {
    aten.dot: _of_matrix,
    aten.vdot: _of_matrix,
    aten.mv: _of_matrix,
    aten.addmv: lambda _, matrix, *__, **___: _of_matrix(matrix),
    aten.addbmm: lambda _, a, b, *__, **___: 2 * math.prod(a) * b[-1],
    aten._trilinear: lambda a, weight, *_, **__: 2 * a[0] * math.prod(weight),  # of a bilinear layer
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
}


@contextmanager
def counting(model: nn.Module) -> Iterator[dict[str, int]]:
    """Count the multiply-adds of what the model runs inside the block.

    Yields module name -> multiply-adds, in the order in which they run. A product counts for the innermost module that
    runs it: one of attention for the attention, one of a linear layer for the layer. Making a compressed weight from
    its stored form counts as nothing.

    model: any network.

    >>> model = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True).eval()
    >>> with counting(model) as work:
    ...     answers = model(torch.zeros(1, 5, 4))
    >>> work  # attention: 5 x 4 x (3 x 4) and 5 x 4 x 4 for its matrices, 2 x 5 x 5 x 4 for what it compares and adds
    {'self_attn': 520, 'linear1': 120, 'linear2': 120}
    """
    work: dict[str, int] = {}
    counter = FlopCounterMode(display=False, custom_mapping=PRODUCTS)
    running: list[str | None] = [""]  # names of the modules that run, from the outermost in; None: not counted
    counted = 0

    def settle() -> None:
        """Add what was counted since the last time to the module that ran."""
        nonlocal counted
        now = counter.get_total_flops() // 2
        add(running[-1], now - counted)
        counted = now

    def add(name: str | None, adds: int) -> None:
        if name is not None and adds:
            work[name] = work.get(name, 0) + adds

    def enter(name: str, whole: bool) -> Callable[..., None]:
        def before(*_: object) -> None:
            settle()
            running.append(None if whole or running[-1] is None else name)

        return before

    def leave(name: str) -> Callable[..., None]:
        def after(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            settle()
            running.pop()
            if running[-1] is not None:
                add(name, _own_work(module, args[0] if args else kwargs.get("input"), output))

        return after

    hooks = []
    for name, module in model.named_modules():
        whole = hasattr(module, "computes") or isinstance(module, nn.RNNBase) or ".parametrizations." in f".{name}."
        hooks.append(module.register_forward_pre_hook(enter(name, whole)))
        hooks.append(module.register_forward_hook(leave(name), with_kwargs=True))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its kernels hide their products
    try:
        with counter:
            yield work
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()


def _own_work(module: nn.Module, inputs: Any, output: Any) -> int:
    """Multiply-adds of a module whose products torch's counter does not see; 0 for all others."""
    if isinstance(module, nn.RNNBase):  # every matrix meets every step of every sequence
        matrices = [weight for weights in module.all_weights for weight in weights if weight.dim() > 1]
        steps = len(inputs.data) if isinstance(inputs, nn.utils.rnn.PackedSequence) else inputs[..., 0].numel()
        return steps * sum(matrix.numel() for matrix in matrices)
    layer: Any = getattr(module, "computes", None)
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    if isinstance(layer, CONVOLUTIONS):
        places: Tensor = inputs if isinstance(layer, TRANSPOSED) else output
        return places.numel() // places.shape[1] * layer.weight.numel()
    return 0
