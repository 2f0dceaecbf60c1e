"""What a network costs: test error, bytes of its file, multiply-adds, activation memory, and time beside a rival."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from lib import measure, storage, training
from lib.activations import peak_activation_bytes
from lib.datasets import Split
from lib.recipes.methods import Made


@dataclass(frozen=True)
class Costs:
    """What one network costs.

    error_pct: of the test split, in %.
    validation_error_pct: of the validation split, by which an amount can be chosen; nan without one.
    file_bytes: of the coded file.
    multiply_adds: for one sample.
    activation_bytes: of all activations alive at once, at the peak, for one sample.
    latency_ms: median for one sample on one thread; only comparable with times measured in the same call.
    """

    error_pct: float
    validation_error_pct: float
    file_bytes: int
    multiply_adds: int
    activation_bytes: int
    latency_ms: float


def measured(
    candidates: Mapping[str, Made], test: Split, validation: Split | None = None, *, runs: int = 31
) -> dict[str, Costs]:
    """Measure the costs of several networks, timed in turn in one process.

    candidates: name -> network.
    test: samples that were used for no choice, at least one.
    validation: samples for choosing; default none.
    runs: timed runs of each, 20 or more, default 31.

    Returns name -> costs. Raises ValueError for an empty split, or fewer runs.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Linear(4, 2)
    >>> costs = measured({"net": Made(net, net, net)}, Split(torch.rand(6, 4), torch.arange(6) % 2), runs=20)
    >>> costs["net"].multiply_adds
    8
    """
    test.check_not_empty("to test on")
    image, shape = test.images[:1], tuple(test.images.shape[1:])
    calls: dict[str, Callable[[], object]] = {name: partial(made.network, image) for name, made in candidates.items()}
    for made in candidates.values():
        made.network.eval()
    times = measure.latency_ms(calls, runs=runs)
    return {
        name: Costs(
            training.error_pct(made.network, test),
            training.error_pct(made.network, validation) if validation is not None and len(validation) else math.nan,
            len(storage.dumps(made.stored)),
            measure.multiply_adds(made.counted, shape),
            peak_activation_bytes(made.counted, shape) * made.value_bytes // 4,
            times[name].median,
        )
        for name, made in candidates.items()
    }
