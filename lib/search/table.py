"""The table of all candidates of the tiny space, each trained with three seeds: the truth that searches are judged by.

``chains.csv`` beside this file holds it. A search asks it instead of training, so hundreds of searches take seconds;
:func:`measure` trains rows again. ``python -m lib.search.table`` writes all of it: ten minutes on one core.

The images are scikit-learn's digits on photographs, at 16 x 16 pixels, which every installation has. (On
plain digits the better half of the candidates differ no more than their seeds do.) Searches choose by the accuracy on
the validation split; the truth about a candidate is its mean accuracy on the test split.
"""

import argparse
import csv
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import joblib
import numpy as np
import torch

from lib import datasets, training
from lib.datasets import Dataset, Split, places
from lib.search.chains import Chain, Chains
from lib.search.latency_table import machine

PATH = Path(__file__).with_name("chains.csv")
SPACE = Chains(size=16, channels=3)
DATA = "street-digits"
SEEDS = (0, 1, 2)
EPOCHS, BATCH_SIZE, LEARNING_RATE = 5, 32, 0.1
# Of the rows. Since it is part of the code, results that were computed from other rows count as out of date.
DIGEST = "4871fcdca27e0bcf6a9cf8b0a2401a3dae1e93c62adc26f16e0b623ba06d2358"
AGAIN = "restore the file, or measure all of it again: python -m lib.search.table"


@dataclass(frozen=True)
class Row:
    """What training one candidate gave.

    candidate: that was trained.
    parameters, multiply_adds: of its network, one image.
    validation, test: accuracy in percent, one value for each seed.
    """

    candidate: Chain
    parameters: int
    multiply_adds: int
    validation: tuple[float, ...]
    test: tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """All candidates of ``SPACE``.

    fingerprint: what was measured, and with what: data, options, seeds, torch's version, the processor.
    rows: in the order of the space.
    """

    fingerprint: Mapping[str, str]
    rows: tuple[Row, ...]

    @cached_property
    def _by_candidate(self) -> dict[Chain, Row]:
        return {row.candidate: row for row in self.rows}

    def row(self, candidate: Chain) -> Row:
        """Return the row of a candidate.

        candidate: of ``SPACE``; others raise ValueError.
        """
        SPACE.check(candidate)
        return self._by_candidate[candidate]

    def validation(self, candidate: Chain, *, seed: int) -> float:
        """Return the accuracy in percent on the validation split: the fitness of a search, as if it had trained.

        candidate: of ``SPACE``; others raise ValueError.
        seed: of ``SEEDS``; others raise ValueError.
        """
        if seed not in SEEDS:
            raise ValueError(f"the table has the seeds {', '.join(map(str, SEEDS))}, not {seed}")
        return self.row(candidate).validation[SEEDS.index(seed)]

    def truth(self) -> dict[Chain, float]:
        """Return each candidate's accuracy in percent on the test split, the mean over the seeds."""
        return {row.candidate: float(np.mean(row.test)) for row in self.rows}

    def reliability(self) -> float:
        r"""Return the share of the variance of the truths that lies between candidates, and not between seeds.

        .. math:: 1 - \frac{\text{mean variance over seeds}}{\text{seeds} \cdot \text{variance of the means}}
        """
        values = np.array([row.test for row in self.rows])
        return float(1 - values.var(axis=1, ddof=1).mean() / values.shape[1] / values.mean(axis=1).var(ddof=1))


@cache
def dataset() -> Dataset:
    """Load the images that the table is of: 1,078 / 270 / 449 digits (3, 16, 16)."""
    whole = datasets.load(DATA)

    def halved(split: Split) -> Split:
        return Split(torch.nn.functional.avg_pool2d(split.images, 2), split.labels)

    source = f"{whole.source}, means of 2 x 2 pixels"
    splits = (halved(whole.train), halved(whole.validation), halved(whole.test))
    return replace(whole, source=source, train=splits[0], validation=splits[1], test=splits[2])


def measure(candidates: Iterable[Chain], seeds: Sequence[int] = SEEDS, *, jobs: int = 1) -> tuple[Row, ...]:
    """Train candidates, each network on one thread.

    candidates: of ``SPACE``.
    seeds: of the initial weights and of the order of the images; default all of the table.
    jobs: processes, through joblib, default 1.

    Returns one row for each candidate, with one accuracy for each seed. On the processor that made the table, they are
    the table's. Another one rounds differently, which moves an accuracy by a few points, less than another seed does.
    Raises ValueError for a candidate of another space, and for no seeds.

    >>> row, = measure([Chain(("conv1", "skip", "skip", "skip"))], [0])
    >>> row.parameters, abs(row.test[0] - load().row(row.candidate).test[0]) < 10
    (642, True)
    """
    candidates, seeds = list(candidates), list(seeds)
    if not seeds:
        raise ValueError("seeds are empty: at least one is needed to train with")
    for candidate in candidates:
        SPACE.check(candidate)
    networks = {SPACE.network(candidate): candidate for candidate in candidates}  # equal ones are trained once
    pairs = [(candidate, seed) for candidate in networks.values() for seed in seeds]
    accuracies = joblib.Parallel(n_jobs=jobs)(joblib.delayed(_accuracies)(*pair) for pair in pairs)
    found = dict(zip(pairs, accuracies, strict=True))
    rows = []
    for candidate in candidates:
        trained = networks[SPACE.network(candidate)]
        validation, test = zip(*(found[trained, seed] for seed in seeds), strict=True)
        rows.append(Row(candidate, SPACE.parameters(candidate), SPACE.multiply_adds(candidate), validation, test))
    return tuple(rows)


def _accuracies(candidate: Chain, seed: int) -> tuple[float, float]:
    data, threads = dataset(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = SPACE.build(candidate, seed)
        options: training.FitOptions = {"batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE}
        training.fit(network, data.train, epochs=EPOCHS, seed=seed, **options)
        return 100 - training.error_pct(network, data.validation), 100 - training.error_pct(network, data.test)
    finally:
        torch.set_num_threads(threads)


def load(path: Path = PATH, *, digest: str = DIGEST) -> Table:
    """Read the table.

    path: of the file, default the one beside this module.
    digest: that :func:`save` returned when it wrote the file, default that of the file beside this module.

    Raises FileNotFoundError if it is missing; ValueError if it is damaged, lacks a candidate, or was measured with
    other data, options or seeds than this module's.

    >>> table = load()
    >>> len(table.rows), table.fingerprint["epochs"]
    (256, '5')
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no table {path}: {AGAIN}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is damaged: it is no text; {AGAIN}") from None
    head = [line[2:].partition(": ") for line in lines if line.startswith("# ")]
    fingerprint = {key: value for key, _, value in head}
    body = [line for line in lines if not line.startswith("#")]
    if _digest(body) != digest:
        raise ValueError(f"{path} is damaged: its rows are not those that were written; {AGAIN}")
    for key, value in _measured_with().items():
        if fingerprint.get(key) != value:
            raise ValueError(f"{path} was measured with {key} {fingerprint.get(key)}, and lib has {value}; {AGAIN}")
    rows = tuple(map(_row, list(csv.reader(body))[1:]))
    if [row.candidate for row in rows] != list(SPACE):
        raise ValueError(f"{path} has {len(rows)} rows that are not the {len(SPACE)} candidates; {AGAIN}")
    for row in rows:
        costs = (SPACE.parameters(row.candidate), SPACE.multiply_adds(row.candidate))
        if (row.parameters, row.multiply_adds) != costs or not all(0 <= a <= 100 for a in row.validation + row.test):
            raise ValueError(f"{path} is wrong about {row.candidate}: its costs or accuracies cannot be right; {AGAIN}")
    return Table(fingerprint, rows)


def save(rows: Sequence[Row], path: Path = PATH) -> str:
    """Write rows and their fingerprint as CSV.

    rows: of all candidates, in the order of the space.
    path: of the file, default the one beside this module.

    Returns the digest of the rows, which :func:`load` compares.
    """
    columns = ["candidate", "parameters", "multiply_adds"]
    columns += [f"{split}_{seed}" for split in ("validation", "test") for seed in SEEDS]
    body = [",".join(columns)]
    for row in rows:
        accuracies = [f"{accuracy:.4f}" for accuracy in row.validation + row.test]
        body.append(",".join([str(row.candidate), str(row.parameters), str(row.multiply_adds), *accuracies]))
    sizes = [len(split) for split in (dataset().train, dataset().validation, dataset().test)]
    made = {"source": dataset().source, "images": " ".join(map(str, sizes))}
    made |= {"torch": torch.__version__, "processor": machine(torch.device("cpu"))}
    head = [f"# {key}: {value}" for key, value in (_measured_with() | made).items()]
    with places.whole(path) as temporary:
        temporary.write_text("\n".join([*head, *body]) + "\n")
    return _digest(body)


def _row(values: list[str]) -> Row:
    accuracies = tuple(map(float, values[3:]))
    if len(accuracies) != 2 * len(SEEDS) or not all(map(math.isfinite, accuracies)):
        raise ValueError(f"{values[0]} must have {2 * len(SEEDS)} accuracies: {AGAIN}")
    candidate = Chain(tuple(values[0].split(" ")))
    return Row(candidate, int(values[1]), int(values[2]), accuracies[: len(SEEDS)], accuracies[len(SEEDS) :])


def _measured_with() -> dict[str, str]:
    return {
        "data": DATA,
        "epochs": str(EPOCHS),
        "batch_size": str(BATCH_SIZE),
        "learning_rate": str(LEARNING_RATE),
        "seeds": " ".join(map(str, SEEDS)),
    }


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all candidates, write the table, and print its digest, which belongs in this file.

    arguments: of the command line: ``--jobs``, processes, default 2.
    """
    parser = argparse.ArgumentParser(description="Train every candidate of the tiny space and write the table.")
    parser.add_argument("--jobs", type=int, default=2, help="processes, each on one thread (default 2)")
    print(f'DIGEST = "{save(measure(SPACE, jobs=parser.parse_args(arguments).jobs))}"')


if __name__ == "__main__":
    main()
