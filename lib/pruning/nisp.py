r"""Neuron importance score propagation: how much does each neuron move the final responses?

The final response layer, what the classifier reads, is ranked first, by infinite feature selection over the data:
with the spread :math:`\sigma_i` of feature i and the rank correlation :math:`\rho_{ij}`,

.. math:: A_{ij} = \alpha \max(\sigma_i, \sigma_j) + (1-\alpha)(1 - |\rho_{ij}|), \qquad
   s = \Big(\sum_{l \ge 1} (rA)^l\Big) 1 = \big((I - rA)^{-1} - I\big) 1, \qquad r = 0.9 / \text{spectral radius of } A

(roffo2015infinite). Then the scores go back through the network (yu2018nisp),

.. math:: s_k = |W^{(k+1)}|^\top s_{k+1},

a convolution by its transposed one with the kernels' magnitudes; batch norm multiplies by :math:`|\gamma / \sigma|`,
pooling spreads a score over its window, ReLU passes it, an addition or concatenation passes it to all its parts.
That is the gradient of a linear network: the model with the magnitudes of its weights, no biases, no activations.
So autograd does the propagation, through whatever graph the model has.
"""

import copy
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.stats import rankdata
from torch import Tensor, nn

from lib import running, structure
from lib.datasets import Split

WEIGHTED = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
BATCH_NORM = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def ranking(responses: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Infinite feature selection: the importance (features,) of responses (samples, features).

    alpha: 1 looks at the spread alone (relative to the widest), 0 at the correlation alone. A feature that never
    changes gets 0.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], not {alpha}")
    if responses.dim() != 2 or len(responses) < 2 or not torch.isfinite(responses).all():
        raise ValueError(
            f"responses of shape {tuple(responses.shape)} cannot be ranked: two samples or more, all finite, are needed"
        )
    spread = responses.double().std(0).numpy()
    live = spread > 1e-12 * max(spread.max(), 1e-300)
    importance = np.zeros(len(spread))
    if live.any():
        values, n = responses[:, torch.from_numpy(live)].double().numpy(), int(live.sum())
        correlation = np.corrcoef(rankdata(values, axis=0), rowvar=False).reshape(n, n)
        sigma = spread[live] / spread[live].max()
        graph = alpha * np.maximum.outer(sigma, sigma) + (1 - alpha) * (1 - np.abs(correlation))
        radius = eigh(graph, eigvals_only=True, subset_by_index=[n - 1, n - 1])[0]  # nothing is negative: the largest
        importance[live] = np.linalg.solve(np.eye(n) - 0.9 / max(radius, 1e-300) * graph, np.ones(n)) - 1
    return torch.from_numpy(importance)


def linearised(model: nn.Module) -> nn.Module:
    """A copy in float64 that is linear for positive inputs: magnitudes for weights, no biases, sums for maxima."""
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, WEIGHTED | BATCH_NORM):
            for values, change in ((module.weight, torch.abs_), (module.bias, torch.zero_)):
                if values is not None:
                    change(values)
            if isinstance(module, BATCH_NORM) and module.running_mean is not None:
                module.running_mean.zero_()
        for name, child in module.named_children():
            if type(child).__module__ == "torch.nn.modules.activation":
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d | nn.MaxPool3d) and child.dilation in (1, (1, 1), (1, 1, 1)):
                kind = nn.AvgPool2d if isinstance(child, nn.MaxPool2d) else nn.AvgPool3d
                window = (child.kernel_size, child.stride, child.padding)
                setattr(module, name, kind(*window, ceil_mode=child.ceil_mode, divisor_override=1))
    return model


def propagate(
    model: nn.Module, importance: Tensor, example_input: Tensor, *, removed: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Layer name -> (filters,) float64: the importance of what a layer puts out, summed over the places of a map.

    importance: (features,), of the features, or of whole maps, that the last layer reads; not negative.
    removed: layer name -> bool (filters,), those that pass nothing on. Raises ValueError for scores that overflow.
    """
    if importance.dim() != 1 or not torch.isfinite(importance).all() or (importance < 0).any():
        raise ValueError(f"the importance must be one finite number, 0 or more, for each feature, not {importance}")
    linear = linearised(model)
    order = in_order(linear, example_input.double())
    with running.captured(linear, order) as flow, torch.enable_grad():
        for name, gone in (removed or {}).items():
            linear.get_submodule(name).register_forward_hook(partial(_cut, gone=gone))
        linear(torch.ones_like(example_input[:1], dtype=torch.float64).requires_grad_())
        response, names = flow.inputs[order[-1]], order[:-1]
        shape = [1, -1] + [1] * (response.dim() - 2)
        total = (response * importance.double().reshape(shape)).sum()
        found = torch.autograd.grad(total, [flow.outputs[name] for name in names], allow_unused=True)
    scores = {name: s.transpose(0, 1).flatten(1).sum(1) for name, s in zip(names, found, strict=True) if s is not None}
    if not all(torch.isfinite(s).all() for s in scores.values()):
        raise ValueError(f"the importance scores of {type(model).__name__} overflow: scale its weights down")
    return scores


def _cut(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, gone: Tensor) -> Tensor:
    return output * (~gone).reshape(-1, *[1] * (output.dim() - 2))


@torch.no_grad()
def in_order(model: nn.Module, example_input: Tensor) -> list[str]:
    """The names of the model's convolution and linear layers in the order in which they run."""
    names = [name for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)]
    with running.captured(model, names) as flow:
        running.logits(model, example_input[:1])
    return list(flow.outputs)


def scores(
    model: nn.Module, data: Split, *, fraction: float = 0.0, alpha: float = 0.5, images: int = 1000, seed: int = 0
) -> dict[str, Tensor]:
    """Layer name -> (filters,), mean 1 in each layer: the propagated importance of each filter.

    fraction: the share of each layer that is going to be removed. With it the layers are scored from the last to the
        first, and the filters that will go pass nothing on; with 0 all do, and one pass does.
    alpha: see :func:`ranking`. images: how many of the split are drawn for the responses.
    Raises ValueError for a split of fewer than two images, and where the responses never change.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), not {fraction}")
    if len(data) < 2 or images < 2:
        raise ValueError(
            f"the final responses to {min(len(data), images)} images cannot be ranked: two or more are needed"
        )
    example = data.images[:1]
    found = structure.groups(model, example)
    importance = ranking(responses(model, data, images=images, seed=seed), alpha=alpha)
    if not importance.any():
        raise ValueError("the final responses are the same for all images, or all alike: there is nothing to rank")
    order, result, removed = in_order(linearised(model), example.double()), {}, {}
    for group in sorted(found, key=lambda group: -max(map(order.index, group.producers))):
        if fraction or not result:
            passed = propagate(model, importance, example, removed=removed)
        result |= {name: (passed[name] / passed[name].mean().clamp_min(1e-300)).float() for name in group.producers}
        if fraction:
            kept = structure.keep({n: result[n] for n in group.producers}, fraction=fraction, groups=[group])
            removed |= {name: ~mask for name, mask in kept.items()}
    return result


@torch.no_grad()
def responses(model: nn.Module, data: Split, *, images: int, seed: int) -> Tensor:
    """(images, features): what the last layer reads, the mean over the places of a map, for images that are drawn."""
    drawn = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:images]
    modes, found = {module: module.training for module in model.modules()}, []
    try:
        last = in_order(model.eval(), data.images)[-1]
        with running.captured(model, [last]) as flow:
            for batch in data.images[drawn].split(100):
                running.logits(model, batch)
                found.append(flow.inputs[last].flatten(2).mean(2) if flow.inputs[last].dim() > 2 else flow.inputs[last])
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(found)
