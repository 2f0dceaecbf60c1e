"""The one training loop, and the error of what it trained."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from lib import running
from lib.datasets import Split

OPTIMIZERS = ("sgd", "adam")


def squared_hinge(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over samples of the sum over classes of max(0, 1 - t y)^2, t = +1 for the label's class and -1 else."""
    targets = 2 * nn.functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype) - 1
    return (1 - targets * outputs).clamp(min=0).square().sum(1).mean()


LOSSES = {
    "cross_entropy": nn.functional.cross_entropy,
    "squared_hinge": squared_hinge,
    "squared_error": nn.functional.mse_loss,  # the split's labels are what the outputs should be
}


def fit(
    model: nn.Module,
    split: Split,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 128,
    shift: int = 0,
    optimizer: str | Callable[[list[dict]], torch.optim.Optimizer] = "sgd",
    loss: str = "cross_entropy",
    before_epoch: Callable[[int], None] | None = None,
    after_step: Callable[[], None] | None = None,
) -> list[float]:
    """Minimise the loss by stochastic gradient descent with Nesterov momentum; return each epoch's mean loss.

    The learning rate falls from ``learning_rate`` to zero along half a cosine over all steps. ``weight_decay`` acts on
    weights of two dimensions or more, never on biases. ``shift`` moves each training image by up to that many pixels in
    both directions, zeros coming in. ``before_epoch(i)`` is called before epoch i, for instance to prune a little more.
    ``after_step()`` is called after each update, for instance to bring weights back between limits.
    ``optimizer="adam"`` takes Adam instead, whose first decay rate is ``momentum``, with the same schedule; a function
    makes any other from the groups of parameters. ``loss``: "cross_entropy", "squared_hinge" or "squared_error".
    Sample order and shifts depend on ``seed`` alone. Raises ValueError on an empty split or a loss that is not finite.
    """
    if len(split) == 0:
        raise ValueError("the training split is empty: at least one sample is needed")
    if epochs < 0 or batch_size < 1:
        raise ValueError(f"epochs must be 0 or more and batch_size 1 or more, not {epochs} and {batch_size}")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {loss!r}")
    if not callable(optimizer) and optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
    generator = torch.Generator().manual_seed(seed)
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    other = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": other, "weight_decay": 0.0}]
    if callable(optimizer):
        update = optimizer(groups)
    elif optimizer == "adam":
        update = torch.optim.Adam(groups, lr=learning_rate, betas=(momentum, 0.999), fused=True)
    else:
        update = torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=momentum > 0, fused=True)
    steps = max(1, epochs * -(-len(split) // batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(update, steps)
    losses = []
    memory = running.layout(model, split.images)
    model.to(memory_format=memory)
    for epoch in range(epochs):
        if before_epoch is not None:
            before_epoch(epoch)
        model.train()
        total = 0.0
        for batch in torch.randperm(len(split), generator=generator).split(batch_size):
            images = split.images[batch]
            if shift:
                images = shifted(images, shift, generator)
            if memory == torch.contiguous_format:  # one channel, permuted, would ask for channels_last all the same
                images = images.to(memory_format=memory)
            cost = LOSSES[loss](running.logits(model, images), split.labels[batch])
            update.zero_grad()
            cost.backward()
            update.step()
            schedule.step()
            if after_step is not None:
                after_step()
            total += cost.item() * len(batch)
        losses.append(total / len(split))
        if not torch.isfinite(torch.tensor(losses[-1])):
            raise ValueError(
                f"training diverged in epoch {epoch + 1}: the loss is {losses[-1]}; try a lower learning rate"
            )
    model.to(memory_format=torch.contiguous_format).eval()
    return losses


def minimise(
    model: nn.Module,
    split: Split,
    *,
    weight_decay: float,
    kept: Mapping[str, Tensor] | None = None,
    iterations: int = 500,
) -> float:
    """Bring a small network to a minimum of cross-entropy + weight_decay / 2 · |w|², by L-BFGS; return the objective.

    Each step sees the whole split, and the decay acts on biases too, so that the point is a minimum of a function that
    can be written down. ``kept``: parameter name -> bool mask; what it does not keep becomes zero and stays zero.
    Best in float64. In place, in evaluation mode. Raises ValueError on an empty split.
    """
    if len(split) == 0:
        raise ValueError("the training split is empty: at least one sample is needed")
    parameters = dict(model.named_parameters())
    mask = torch.cat([(kept or {}).get(n, torch.ones_like(p)).to(p.dtype).flatten() for n, p in parameters.items()])
    start = mask * nn.utils.parameters_to_vector(parameters.values()).detach()
    images = split.images.to(mask.dtype)
    model.eval()

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        vector = torch.from_numpy(values).to(mask.dtype) * mask
        nn.utils.vector_to_parameters(vector, parameters.values())
        loss = nn.functional.cross_entropy(running.logits(model, images), split.labels)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parameters.values()))])
        whole = loss.item() + weight_decay / 2 * vector.square().sum().item()
        return whole, (mask * (gradient + weight_decay * vector)).double().numpy()

    options = {"maxiter": iterations, "maxfun": 5 * iterations, "ftol": 1e-13, "gtol": 1e-8}
    found = minimize(objective, start.double().numpy(), jac=True, method="L-BFGS-B", options=options)
    return objective(found.x)[0]


def shifted(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image moved by its own random offset of at most ``pixels`` both ways; zeros come in at the border."""
    n, _, height, width = images.shape
    padded = nn.functional.pad(images, (pixels,) * 4)
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, n, 1, 1), generator=generator)
    rows = dy + torch.arange(height)[:, None]
    columns = dx + torch.arange(width)[None, :]
    return padded[torch.arange(n)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


@torch.no_grad()
def error_pct(model: nn.Module, split: Split, *, batch_size: int = 1000) -> float:
    """Share of wrongly classified samples, in percent."""
    if len(split) == 0:
        raise ValueError("the split to evaluate on is empty: at least one sample is needed")
    model.eval()
    plain = split.images.to(memory_format=torch.contiguous_format)  # some kernels for channels_last are wrong: layout
    pairs = zip(plain.split(batch_size), split.labels.split(batch_size), strict=True)
    wrong = sum((running.logits(model, images).argmax(dim=1) != labels).sum().item() for images, labels in pairs)
    return 100 * wrong / len(split)
