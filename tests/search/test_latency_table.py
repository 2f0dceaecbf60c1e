"""The latency table: sums, whole networks, files, and devices that cannot time an operation."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lib.search import latency_table as tables
from lib.search.chains import Chain, Chains
from lib.search.latency_table import LatencyTable, latency_table

SPACE = Chains()


@pytest.fixture(scope="module")
def table() -> LatencyTable[Chain]:
    return latency_table(SPACE, runs=20)


@dataclass(frozen=True)
class Part:
    """An operation that does what a test gives it to do."""

    name: str
    work: Callable[[], object] = int

    def call(self, device: torch.device) -> Callable[[], object]:
        return self.work


class Parts:
    """A space of lists of parts."""

    def __init__(self, *parts: Part) -> None:
        self.parts = parts

    def every_operation(self) -> tuple[Part, ...]:
        return self.parts

    def operations_of(self, candidate: tuple[Part, ...]) -> tuple[Part, ...]:
        return candidate

    def call(self, candidate: tuple[Part, ...], device: torch.device) -> Callable[[], object]:
        return lambda: [part.work() for part in candidate]


def test_every_operation_of_every_candidate_has_a_time(table):
    names = {operation.name for candidate in SPACE for operation in SPACE.operations_of(candidate)}
    assert set(table.milliseconds) == names and all(time > 0 for time in table.milliseconds.values())


def test_a_latency_is_the_sum_over_the_operations():
    space = Chains(positions=2, pools=1)
    times = {operation.name: float(2**i) for i, operation in enumerate(space.every_operation())}
    made = LatencyTable(space, "cpu", "board", times)
    for candidate in space:
        assert made.latency_ms(candidate) == sum(times[o.name] for o in space.operations_of(candidate))


def test_sums_rank_whole_networks(table):
    random = np.random.default_rng(3)
    chains = list({SPACE.sample(random): None for _ in range(24)})
    result = table.validate(chains, runs=20)
    assert result.rank_correlation >= 0.9
    assert result.predicted_ms == tuple(map(table.latency_ms, chains))


def test_each_operation_runs_five_times_before_its_thirty_timed_runs():
    calls: list[str] = []
    parts = [Part("a", lambda: calls.append("a")), Part("b", lambda: calls.append("b"))]
    latency_table(Parts(*parts))
    assert calls == ["a"] * 3 + ["b"] * 3 + ["a", "b"] * 32  # two of the 32 warm up too


def test_the_correlation_is_that_of_the_ranks():
    slow, fast = Part("slow", lambda: sum(range(50_000))), Part("fast", lambda: sum(range(3_000)))
    made = LatencyTable(Parts(slow, fast), "cpu", tables.machine(torch.device("cpu")), {"slow": 1.0, "fast": 2.0})
    candidates = [(slow,), (fast,), (fast,) * 3]  # the table says 1, 2, 6: the first is in truth the slowest
    result = made.validate(candidates, runs=20)
    assert result.predicted_ms == (1, 2, 6) and result.rank_correlation == pytest.approx(-0.5)


def test_a_file_gives_the_table_back(table, tmp_path):
    table.save(tmp_path / "boards" / "mine.json")
    assert tables.load(tmp_path / "boards" / "mine.json", SPACE) == table


def test_other_random_draws_are_left_alone():
    state = torch.get_rng_state()
    latency_table(Chains(positions=1, pools=0), runs=20)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_operation_that_the_device_cannot_run_is_named():
    def fails() -> None:
        raise NotImplementedError("no kernel for uint3\nand much more")

    with pytest.raises(ValueError, match=r"the device 'cpu' cannot time the operation deform: no kernel for uint3$"):
        latency_table(Parts(Part("fine"), Part("deform", fails)))


@pytest.mark.parametrize("device", ["toaster", "meta", "cuda:99"])
def test_devices_that_are_not_there_or_compute_nothing_are_refused(device):
    with pytest.raises(ValueError, match=f"this machine has no device '{device}' that computes"):
        latency_table(SPACE, device=device)


def test_too_few_runs_and_a_space_without_operations_are_refused():
    with pytest.raises(ValueError, match="runs must be at least 20"):
        latency_table(SPACE, runs=3)
    with pytest.raises(ValueError, match="the space has no operation"):
        latency_table(Parts())


def test_candidates_of_another_space_are_refused(table):
    with pytest.raises(ValueError, match="'conv3' has 1 operations, not 4"):
        table.latency_ms(Chain(("conv3",)))


def test_two_networks_have_no_rank_correlation(table):
    with pytest.raises(ValueError, match="needs 3 candidates or more, not 2"):
        table.validate(list(SPACE)[:2])


HERE = tables.machine(torch.device("cpu"))


def test_equal_predictions_have_no_rank_correlation():
    part = Part("one")
    made = LatencyTable(Parts(part), "cpu", HERE, {"one": 2.0})
    with pytest.raises(ValueError, match="all 3 networks take 2 ms by the table: there is nothing to rank"):
        made.validate([(part,)] * 3)


def test_equal_times_are_told_as_they_were_measured(monkeypatch):
    parts = [Part("one"), Part("two"), Part("three")]
    made = LatencyTable(Parts(*parts), "cpu", HERE, {"one": 2.0, "two": 3.0, "three": 4.0})
    same = tables.measure.latency_ms({"same": int})["same"]
    monkeypatch.setattr(tables.measure, "latency_ms", lambda calls, runs: dict.fromkeys(calls, same))
    message = f"all 3 networks take {same.median:.3g} ms when they are timed: there is nothing to rank"
    with pytest.raises(ValueError, match=message):
        made.validate([(part,) for part in parts])


def test_a_network_that_the_device_cannot_run_is_named(table):
    class Failing(Chains):
        def call(self, candidate, device):
            raise RuntimeError("no memory")

    made = LatencyTable(Failing(), "cpu", table.machine, table.milliseconds)
    with pytest.raises(ValueError, match="the device 'cpu' cannot time the network conv3 conv3 conv3 conv3: no memory"):
        made.validate(list(SPACE)[:3])


def test_a_table_of_another_machine_is_not_validated_here(table):
    other = LatencyTable(SPACE, "cpu", "a board far away", table.milliseconds)
    with pytest.raises(ValueError, match="the table is of a board far away, and this machine is"):
        other.validate(list(SPACE)[:5])
    assert other.latency_ms(Chain(("skip",) * 4)) > 0  # its times are good to search with


GOOD = {"device": "cpu", "machine": "a board", "milliseconds": {o.name: 1.0 for o in SPACE.every_operation()}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no latency table"),
        ("[1, 2]", "is no latency table"),
        (json.dumps({"device": "cpu"}), "is no latency table: 'machine'"),
        (json.dumps(GOOD | {"device": 3}), "device and machine must be names, not 3"),
        (json.dumps(GOOD | {"milliseconds": {"a": -1.0}}), "the time of a must be above 0, not -1.0"),
        (json.dumps(GOOD | {"milliseconds": {"a": float("nan")}}), "the time of a must be above 0, not nan"),
        (json.dumps(GOOD | {"milliseconds": {"a": "1"}}), "the time of a must be above 0, not '1'"),
        (json.dumps(GOOD | {"milliseconds": {"a": 1.0}}), "of another space: it has no time for stem 1-8 14x14"),
    ],
)
def test_damaged_files_are_refused_in_one_sentence(content, message, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        tables.load(path, SPACE)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no latency table .*none\.json"):
        tables.load(tmp_path / "none.json", SPACE)
