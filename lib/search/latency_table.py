r"""How long a network takes on this machine, from a table with the time of each operation.

Every operation that a space can choose is timed once. The latency of a candidate is the sum over its operations,

.. math:: \text{LAT}(m) = \sum_{o \in m} t_o ,

so a search can ask for thousands of latencies without timing anything more. :meth:`LatencyTable.validate` times whole
networks and says how well the sums rank them. Make the table on the board that the network is for:

``latency_table(Chains()).save("board.json")``
"""

import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from scipy import stats

from lib import measure
from lib.datasets import places

C = TypeVar("C")
Taken = TypeVar("Taken", contravariant=True)
WARM_UP = 3  # runs before the warm-up runs of lib.measure: five in all


class Operation(Protocol):
    """A row of the table: an operation at its sizes."""

    @property
    def name(self) -> str:
        """Operation and sizes: operations of the same name take the same time."""

    def call(self, device: torch.device) -> Callable[[], object]:
        """Return a call that runs the operation once, on an input that is ready.

        device: where it runs.
        """


class Composed(Protocol[Taken]):
    """A space whose networks are made of operations: :class:`lib.search.chains.Chains`, for example."""

    def every_operation(self) -> Sequence[Operation]:
        """List the different operations of all candidates."""

    def operations_of(self, candidate: Taken) -> Sequence[Operation]:
        """List the operations of a candidate, one that runs twice listed twice.

        candidate: of the space.
        """

    def call(self, candidate: Taken, device: torch.device) -> Callable[[], object]:
        """Return a call that runs the whole network once, on an input that is ready.

        candidate: of the space.
        device: where it runs.
        """


@dataclass(frozen=True)
class Validation:
    """Whole networks against the table.

    rank_correlation: Spearman's, between the two columns.
    predicted_ms: sums of the table, one for each candidate.
    measured_ms: medians of the whole networks, in the same order.
    """

    rank_correlation: float
    predicted_ms: tuple[float, ...]
    measured_ms: tuple[float, ...]


@dataclass(frozen=True)
class LatencyTable(Generic[C]):
    """Times of all operations of a space on one device.

    space: of the operations.
    device: as torch names it, "cpu" or "cuda:0".
    machine: name of the processor or of the accelerator.
    milliseconds: name of each operation -> the median of its runs.
    """

    space: Composed[C]
    device: str
    machine: str
    milliseconds: Mapping[str, float]

    def latency_ms(self, candidate: C) -> float:
        """Add up the times of a candidate's operations.

        candidate: of the space.

        Raises ValueError for a candidate of another space.
        """
        return math.fsum(self.milliseconds[operation.name] for operation in self.space.operations_of(candidate))

    def validate(self, candidates: Iterable[C], *, runs: int = 30) -> Validation:
        """Time whole networks, and compare with the table.

        candidates: three or more, whose networks are built and timed in turns.
        runs: timed runs of each network, 20 or more, default 30.

        Raises ValueError for fewer candidates, on another machine than the table's, for a network that the device
        cannot run, and where all networks take the same time, by the table or when they are timed.
        """
        candidates = list(candidates)
        if len(candidates) < 3:
            raise ValueError(f"a rank correlation needs 3 candidates or more, not {len(candidates)}")
        if (here := machine(device := _device(self.device))) != self.machine:
            raise ValueError(f"the table is of {self.machine}, and this machine is {here}: validate it there")
        predicted = tuple(map(self.latency_ms, candidates))
        calls = {
            str(i): _timed(f"network {candidate}", partial(self.space.call, candidate), device)
            for i, candidate in enumerate(candidates)
        }
        times = measure.latency_ms(calls, runs=runs)
        measured = tuple(times[str(i)].median for i in range(len(candidates)))
        for source, column in (("by the table", predicted), ("when they are timed", measured)):
            if len(set(column)) == 1:
                raise ValueError(
                    f"all {len(candidates)} networks take {column[0]:.3g} ms {source}: there is nothing to rank"
                )
        return Validation(float(stats.spearmanr(predicted, measured).statistic), predicted, measured)

    def save(self, path: str | Path) -> None:
        """Write the table to a file, as JSON.

        path: of the file; missing folders are made.
        """
        content = {"device": self.device, "machine": self.machine, "milliseconds": dict(self.milliseconds)}
        with places.whole(Path(path)) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")


def latency_table(space: Composed[C], *, device: str = "cpu", runs: int = 30) -> LatencyTable[C]:
    """Time every operation of a space on this machine, one image at a time and on one thread.

    The operations take turns, so that none finds its weights in the cache because it has just run. After five runs to
    warm up come the timed ones, whose median goes into the table.

    space: whose operations are timed.
    device: "cpu" (default), "cuda", "mps", or another that torch knows; the time includes waiting for its result.
    runs: timed runs of each operation, 20 or more, default 30.

    Raises ValueError for a device that is not there, and for an operation that it cannot run: the sentence names both.

    >>> from lib.search.chains import Chain, Chains
    >>> table = latency_table(Chains(operations=("conv3", "skip")))
    >>> table.latency_ms(Chain(("conv3",) * 4)) > table.latency_ms(Chain(("skip",) * 4))
    True
    """
    where = _device(device)
    found = space.every_operation()
    if not found:
        raise ValueError("the space has no operation: there is nothing to time")
    # method
    operations = {operation.name: operation for operation in found}
    calls = {name: _timed(f"operation {name}", operation.call, where) for name, operation in operations.items()}
    times = measure.latency_ms(calls, runs=runs)
    milliseconds = {name: time.median for name, time in times.items()}
    # end of method
    return LatencyTable(space, str(where), machine(where), milliseconds)


def load(path: str | Path, space: Composed[C]) -> LatencyTable[C]:
    """Read a table that :meth:`LatencyTable.save` wrote, on this machine or on another.

    path: of the file.
    space: that the table is for.

    Raises FileNotFoundError if there is no such file, ValueError for a damaged one or one of another space.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
        device, name, times = content["device"], content["machine"], dict(content["milliseconds"])
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no latency table {path}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no latency table: {' '.join(str(error).split())}") from None
    if not isinstance(device, str) or not isinstance(name, str):
        raise ValueError(f"{path} is no latency table: device and machine must be names, not {device!r} and {name!r}")
    for operation, time in times.items():
        if isinstance(time, bool) or not isinstance(time, int | float) or not 0 < time < math.inf:
            raise ValueError(f"{path} is damaged: the time of {operation} must be above 0, not {time!r}")
    for part in space.every_operation():
        if part.name not in times:
            raise ValueError(f"{path} is a table of another space: it has no time for {part.name}")
    return LatencyTable(space, device, name, times)


def machine(device: torch.device) -> str:
    """Return the name of the processor, or of the accelerator.

    device: of this machine.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(("model name", "hardware"))]
    name = names[0] if names else platform.processor() or platform.machine()
    return name if device.type == "cpu" else f"{device.type} of {name}"


def _device(device: str) -> torch.device:
    try:
        where = torch.device(device)
        torch.zeros(1, device=where).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"this machine has no device {device!r} that computes: {_line(error)}") from None
    return where


def _timed(
    what: str, make: Callable[[torch.device], Callable[[], object]], device: torch.device
) -> Callable[[], object]:
    """Make a call and warm it up; on an accelerator, let it wait for its result."""
    try:
        call = make(device)

        def waits() -> None:
            call()
            torch.accelerator.synchronize(device)

        whole = call if device.type == "cpu" else waits
        with torch.no_grad():
            for _ in range(WARM_UP):
                whole()
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"the device {str(device)!r} cannot time the {what}: {_line(error)}") from None
    return whole


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
