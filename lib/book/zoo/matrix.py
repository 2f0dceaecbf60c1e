"""Technique x network: ``python -m lib zoo`` tries what is out of date and writes ``results/networks.json``.

The file holds, for each technique, a digest of its code and how each trial ended. The page of the techniques shows it
as a table; a gate fails if a digest is out of date or a trial is a fault. All trials together take more than an hour,
so the digest leaves out what techniques share. Instead, the tests try the small networks every time, and ``python -m
lib zoo --minutes 3`` repeats as many trials as fit, different ones at each commit.
"""

import ast
import hashlib
import json
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from lib import imports
from lib.book import catalogue, chapters, files, reproduce
from lib.book.fingerprints import lock_sha256

RECORD = Path("results", "networks.json")
LEAST = 80  # percent of the trials that must work; the others are refused
STRIDE = 101  # each commit begins this many cells later; a prime, so it shares no factor with the number of cells


def trials(root: Path) -> dict[str, dict[str, str]]:
    """Return what to try: id of a technique -> ``{"kind", "call"}``, in the order of the catalogue.

    It comes from a row's ``zoo``, or else from its ``contract``. ``zoo: {none: <why>}`` leaves a technique out.

    root: the book's folder.
    Raises ValueError for a technique that has neither.
    """
    found = {}
    for row in catalogue.rows(root):
        trial = row.get("zoo", row.get("contract"))
        if trial is None:
            raise ValueError(f"{row['id']} has no contract: give one, or zoo: {{none: <why>}}")
        if "none" not in trial:
            found[row["id"]] = {"kind": trial["kind"], "call": trial["call"]}
    return found


def digests(root: Path) -> dict[str, str]:
    """Return a digest for each technique that is tried: of its call, the modules named there, the zoo and the lock.

    root: the book's folder.
    """
    library = chapters.library(root)
    own = [imports.code_of_file(path) for path in sorted((library / "book" / "zoo").glob("*.py"))]
    places = {
        path.stem: path
        for path in sorted(library.glob("*/**/*.py"))
        if path.relative_to(library).parts[0] not in ("book", "datasets", "coding", "figures")
    }
    lock = lock_sha256(root)
    result = {}
    for id, trial in trials(root).items():
        names = {node.id for node in ast.walk(ast.parse(trial["call"])) if isinstance(node, ast.Name)}
        used = [imports.code_of_file(places[name]) for name in sorted(names & places.keys())]
        parts = [trial["kind"], trial["call"], lock, *used, *own]
        result[id] = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    return result


def load(root: Path) -> dict[str, Any]:
    """Return the record, id -> ``{"code", "networks": {name: {"state", "seconds", "says"}}}``; empty without a file.

    root: the book's folder.
    Raises ValueError for a file that is not JSON.
    """
    path = root / RECORD
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{RECORD} is no JSON: {error}") from error


def run(root: Path, *, cores: int, only: str | None = None) -> int:
    """Try every technique whose record is out of date; write the record. Returns 1 if :func:`gate` finds a fault.

    How each trial ended is kept below ``_build``, so an interrupted run continues where it stopped.

    root: the book's folder.
    cores: trials at once.
    only: id of one technique, which is tried even if its record is up to date; by default all that are out of date.
    Raises ValueError for an unknown id.
    """
    from lib.book.zoo import networks

    todo, now, record = trials(root), digests(root), load(root)
    if only is not None and only not in todo:
        raise ValueError(f"the technique must be one of {', '.join(todo)}, not {only!r}")
    due = [only] if only else [id for id in todo if record.get(id, {}).get("code") != now[id]]
    kept = root / "_build" / "zoo"
    places = {(id, network): kept / now[id] / f"{network}.json" for network in networks.ZOO for id in due}
    cells = [cell for cell, path in places.items() if only or _kept(path)["state"] == "fault"]
    with ProcessPoolExecutor(cores, initializer=_one_thread) as pool:
        waiting = {pool.submit(_tried, todo[cell[0]], cell[1]): cell for cell in cells}
        for n, future in enumerate(as_completed(waiting), 1):
            id, network = waiting[future]
            outcome = future.result()
            cell = {"state": outcome.state, "seconds": round(outcome.seconds), "says": outcome.says}
            files.write(places[id, network], json.dumps(cell))
            if outcome.state == "fault" or outcome.seconds > 30:
                print(f"{id} on {network}: {outcome.state}, {outcome.seconds:.0f} s: {outcome.says}", flush=True)
            if n % 50 == 0:
                print(f"{n} of {len(cells)} trials", file=sys.stderr, flush=True)
    for id in due:
        record[id] = {"code": now[id], "networks": {name: _kept(places[id, name]) for name in networks.ZOO}}
    _write(root, {name: record[name] for name in todo if name in record})
    count, wrong = gate(root)
    print(*wrong, sep="\n")
    print(f"{count} trials: {', '.join(f'{n} {state}' for state, n in tally(load(root)).items())}")
    return int(bool(wrong))


def hold(root: Path, *, minutes: float, cores: int) -> int:
    """Repeat the trials that fit in a time, different ones at each commit. Returns 1 if one differs from the record.

    root: the book's folder.
    minutes: the time available, judged by the recorded times.
    cores: trials at once.
    Raises ValueError for a number of minutes that is not above 0 or lets no trial fit.
    """
    if not 0 < minutes < 10**6:
        raise ValueError(f"minutes must be above 0, not {minutes:g}")
    todo, record = trials(root), load(root)
    cells = fitting(reproduce.rotated(_cells(record), STRIDE * reproduce.turn(root)), 60 * minutes * cores)
    if not cells:
        raise ValueError(f"no trial of {RECORD} fits in {minutes:g} minutes: give it more")
    with ProcessPoolExecutor(cores, initializer=_one_thread) as pool:
        waiting = [(*cell, pool.submit(_tried, todo[cell[0]], cell[1])) for cell in cells if cell[0] in todo]
        wrong = []
        for id, network, future in waiting:
            here, held = future.result(), record[id]["networks"][network]["state"]
            if here.state != held:
                wrong.append(f"{id} on {network}: held {held}, here {here.state}: {here.says}")
    print(*wrong, f"{len(waiting)} trials again, {len(wrong)} ended otherwise", sep="\n")
    return int(bool(wrong))


def fitting(cells: list[tuple[str, str, float]], seconds: float) -> list[tuple[str, str]]:
    """Return as many trials, from the first, as fit in a time; one that is too long is left out.

    cells: technique, network and recorded seconds.
    seconds: the time of all cores together.

    >>> fitting([("a", "x", 10), ("a", "y", 1000), ("a", "z", 20)], 60)
    [('a', 'x'), ('a', 'z')]
    """
    chosen = []
    for id, network, recorded in cells:
        cost = reproduce.SLOWER * (recorded + 0.5)  # recorded times are whole seconds
        if cost <= seconds:
            chosen.append((id, network))
            seconds -= cost
    return chosen


def _cells(record: dict[str, Any]) -> list[tuple[str, str, float]]:
    return [(id, name, cell["seconds"]) for id, row in record.items() for name, cell in row["networks"].items()]


def tally(record: dict[str, Any]) -> dict[str, int]:
    """Return how many trials of a record ended in which way.

    record: as :func:`load` returns it.

    >>> tally({"prune-x": {"networks": {"a": {"state": "works"}, "b": {"state": "refused"}}}})
    {'works': 1, 'refused': 1, 'fault': 0}
    """
    states = [cell["state"] for row in record.values() for cell in row["networks"].values()]
    return {state: states.count(state) for state in ("works", "refused", "fault")}


def gate(root: Path) -> tuple[int, list[str]]:
    """Check the record: it has every technique with its present code, no fault, and enough trials that work.

    root: the book's folder.
    Returns how many trials it holds, and a sentence for each thing that is wrong.
    """
    record, now = load(root), digests(root)
    wrong = [f"{RECORD} has {id}, which the catalogue does not try: make zoo" for id in record if id not in now]
    for id, code in now.items():
        if id not in record:
            wrong.append(f"{RECORD} has no {id}: make zoo")
        elif record[id]["code"] != code:
            wrong.append(f"{id} in {RECORD} is of other code: make zoo")
        wrong += [
            f"{id} on {name}: {cell['says']}"
            for name, cell in record.get(id, {}).get("networks", {}).items()
            if cell["state"] == "fault"
        ]
    counts = tally(record)
    count = sum(counts.values())
    if count and 100 * counts["works"] < LEAST * count:
        wrong.append(f"{counts['works']} of {count} trials work: {LEAST} % must")
    return count, wrong


def _kept(path: Path) -> dict[str, Any]:
    """How a trial ended in an interrupted run; one that has not run counts as a fault, so it is tried."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {"state": "fault", "seconds": 0, "says": "not run"}


def _tried(trial: dict[str, str], network: str) -> Any:
    from lib.book.zoo.trials import tried

    return tried(trial["kind"], trial["call"], network)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _write(root: Path, record: dict[str, Any]) -> None:
    files.write(root / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
