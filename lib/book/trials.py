"""Trials of the kernels that libraries choose by processor, each compared with exact results.

All inputs are whole numbers, so that any two correct kernels give exactly the same sums, whatever the order of
adding. :mod:`lib.book.doctor` runs the trials and keeps the verdict.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One trial. ``wrong`` says what is wrong, empty if nothing is; ``instead`` what the book does about it, if it can.

    Without ``instead``, a result of the book that rests on a wrong kernel would be wrong.
    """

    name: str
    wrong: str = ""
    instead: str = ""

    def __str__(self) -> str:
        verdict = "right" if not self.wrong else "wrong, and avoided" if self.instead else "WRONG"
        return ": ".join(filter(None, (f"{verdict:<18} {self.name}", self.wrong, self.instead)))


def checks() -> list[Check]:
    """Run every trial now and return its outcome. A trial that raises an error counts as wrong."""
    return [
        _tried("matrix products", _products),
        _tried("convolutions in plain memory", lambda: _convolutions(last=False, single=None)),
        _tried(
            "convolutions in channels last, one input channel",
            lambda: _convolutions(last=True, single=True),
            "training uses plain memory for such networks, and binary layers always do",
        ),
        _tried("convolutions in channels last, more input channels", lambda: _convolutions(last=True, single=False)),
        _integers(),
        _tried("bit kernels", _bits),
        _tried("two threads", _threads, "chapters and tests run on one thread"),
    ]


def _tried(name: str, trial: Callable[[], str], instead: str = "") -> Check:
    """``trial`` returns what is wrong; ``instead`` counts only where something is."""
    try:
        wrong = trial()
    except Exception as error:  # whatever a broken kernel raises is the finding
        wrong = f"{type(error).__name__}: {error}"
    return Check(name, wrong, instead if wrong else "")


def _products() -> str:
    import torch

    draw = torch.Generator().manual_seed(0)
    wrong = []
    for rows, inner, columns in ((1, 1, 1), (1, 784, 300), (7, 33, 5), (64, 500, 10), (128, 65, 17), (3, 1000, 1)):
        a, b = (2 * torch.randint(0, 2, size, generator=draw) - 1 for size in ((rows, inner), (inner, columns)))
        if not torch.equal((a.float() @ b.float()).long(), a @ b):
            wrong.append(f"{rows} x {inner} times {inner} x {columns}")
    return _listed(wrong)


def _shapes() -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...]]]:
    """Shapes of images (n, channels, height, width) and weight, and place, as :func:`lib.running.convolved` reads."""
    for filters in (1, 8, 34):  # one channel and, along the width, a stride and one output column
        for height, width, size, stride in (
            (5, 3, (3, 2), (1, 2)),
            (3, 4, (1, 3), (1, 2)),
            (6, 2, (3, 2), (1, 3)),
            (3, 3, (2, 3), (2, 2)),
            (8, 6, (4, 5), (2, 3)),
        ):
            yield (3, 1, height, width), (filters, 1, *size), (stride, (0, 0), (1, 1), False, (0, 0), 1)
    draw = random.Random(0)
    for _ in range(60):
        channels, filters, groups = draw.choice([1, 1, 2, 3, 4, 8, 16, 20]), draw.randint(1, 40), 1
        if draw.random() < 0.2:
            groups, filters = channels, channels  # each channel on its own
        height, width = draw.randint(1, 12), draw.randint(1, 12)
        size = draw.randint(1, min(5, height)), draw.randint(1, min(5, width))
        stride, padding = (draw.randint(1, 3), draw.randint(1, 3)), (draw.randint(0, 1), draw.randint(0, 1))
        if max(size) == 1 < max(stride) and channels < 8:  # it could crash the process, so training avoids it
            stride = (1, 1)
        place = (stride, padding, (1, 1), False, (0, 0), groups)
        yield (draw.randint(1, 9), channels, height, width), (filters, channels // groups, *size), place


def _convolutions(*, last: bool, single: bool | None) -> str:
    """Compare outputs and gradients with float64 in plain memory; single: one input channel, more, or None for both."""
    import torch

    from lib import running

    wrong, memory = [], torch.channels_last if last else torch.contiguous_format
    for images, weight, place in _shapes():
        if single is not None and (images[1] == 1) != single:
            continue
        exact = running.convolved(images, weight, place, dtype=torch.float64, memory=torch.contiguous_format)
        tried = running.convolved(images, weight, place, dtype=torch.float32, memory=memory)
        for what, a, b in zip(("output", "gradient of images", "gradient of weight"), tried, exact, strict=True):
            if not running.equal_sums(a, b):
                filters, _, high, wide = weight
                shape = f"image {images[1]} x {images[2]} x {images[3]}, {filters} filters of {high} x {wide}"
                wrong.append(f"{what} for {shape}, stride {place[0]}")
    return _listed(wrong)


def _integers() -> Check:
    name = "sums of torch's 8-bit kernels"
    try:
        import torch

        from lib.quantization.shared import torch_kernels

        usual = torch.backends.quantized.engine
        if torch_kernels.adds_exactly(usual):
            return Check(name)
        other = torch_kernels.exact_engine(usual)
    except Exception as error:  # as in _tried
        return Check(name, f"{type(error).__name__}: {error}")
    instead = f"8-bit networks use {other}" if other else "8-bit kernels are refused, and 32-bit integers used"
    return Check(name, f"{usual} cuts them off at 16 bits", instead)


def _bits() -> str:
    import torch

    from lib.binarization.shared import kernels

    draw = torch.Generator().manual_seed(0)
    wrong = []

    def signs(*shape: int) -> torch.Tensor:
        return 2.0 * torch.randint(0, 2, shape, generator=draw) - 1

    for rows, length, filters in ((1, 1, 1), (3, 64, 16), (9, 130, 21), (130, 65, 33), (5, 1000, 3)):
        a, b = signs(rows, length), signs(filters, length)
        counted, expected = kernels.product(kernels.pack(a), kernels.pack(b)), a.long() @ b.long().T
        if not torch.equal(counted.long(), expected) or not torch.equal(kernels.unpack(kernels.pack(a)), a):
            wrong.append(f"{rows} x {length} times {filters} filters")
    for channels, filters, size, stride in ((1, 18, 3, 1), (3, 1, 2, 2), (64, 16, 3, 1), (70, 17, 3, 2), (20, 5, 1, 1)):
        x, w = signs(2, channels, 7, 6), signs(filters, channels, size, size)
        counted = kernels.convolution(x, kernels.arrange(w), stride=(stride, stride), border=(1, 1, 1, 1))
        expected = torch.nn.functional.conv2d(x.long(), w.long(), None, stride, 1)
        if not torch.equal(counted.long(), expected):
            wrong.append(f"{channels} channels, {filters} filters of {size} x {size}, stride {stride}")
    return _listed(wrong)


def _threads() -> str:
    import torch

    from lib import running

    wrong = []
    for images, weight, groups in (((16, 3, 32, 32), (16, 3, 3, 3), 1), ((9, 16, 14, 14), (32, 8, 5, 5), 2)):
        place, results = ((1, 1), (1, 1), (1, 1), False, (0, 0), groups), []
        for threads in (1, 2):
            with _threaded(threads):
                result = running.convolved(images, weight, place, dtype=torch.float32, memory=torch.contiguous_format)
                results.append(result)
        if not all(map(running.equal_sums, *results)):
            wrong.append(f"convolution of {images[1]} channels")
    with _threaded(2):
        if products := _products():
            wrong.append(products)
    return _listed(wrong)


@contextmanager
def _threaded(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _listed(wrong: list[str]) -> str:
    """The first of what is wrong, and how many more there are."""
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return wrong[0] + more if wrong else ""
