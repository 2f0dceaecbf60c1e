"""Measure a classifier at every density and number of bits: ``python -m lib.book.playground``.

It writes ``results/playground.json``, which the page on Deep Compression shows with two sliders. The training takes
minutes and belongs to no chapter's profile, so every build shows the numbers of MNIST. Networks are pruned gradually
and retrained. Then the weights that are left share the values with the least squared error, without more training.
"""

import copy
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from lib import imports
from lib.book import chapters, files

RECORD = Path("results", "playground.json")
DENSITIES = (100, 50, 30, 20, 10, 6, 3)  # percent of the weights that are kept
BITS = (32, 8, 6, 5, 4, 3, 2)  # of each weight that is kept; with 32 each keeps its own float
BINS, EDGE = 41, 0.4  # of the histogram, from -EDGE to EDGE; an odd number, so that zero is in the middle of one
PLAN: dict[str, Any] = {"data": "mnist", "seeds": 3, "epochs": 15, "retrain_epochs": 10, "learning_rate": 0.1}
USED = ("pruning/magnitude.py", "quantization/deep_compression.py", "quantization/scalar_kmeans.py")
FIELDS = {"density", "bits", "error_pct", "bytes", "histogram"}


def digest(root: Path) -> str:
    """Return a digest of the code that decides the record: this file, and the methods that it uses.

    root: the book's folder.
    """
    library = chapters.library(root)
    own = [imports.code_of_file(library / name) for name in ("book/playground.py", *USED)]
    return hashlib.sha256("\n".join(own).encode()).hexdigest()[:12]


def load(root: Path) -> dict[str, Any]:
    """Return the record: ``{"code", "plan", "dense_bytes", "settings": [{"density", "bits", "error_pct", ...}]}``.

    root: the book's folder.
    Raises ValueError with one sentence for a file that is missing, damaged, or lacks a setting.
    """
    path = root / RECORD
    if not path.exists():
        raise ValueError(f"{RECORD} is missing: python -m lib.book.playground")
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        for row in record["settings"]:
            numbers = [*row["error_pct"], *row["bytes"], *row["histogram"]]
            if set(row) != FIELDS or len(row["histogram"]) != BINS or not all(map(math.isfinite, numbers)):
                raise ValueError("a setting without its numbers")
        found = [(row["density"], row["bits"]) for row in record["settings"]]
        if found != [(density, bits) for density in DENSITIES for bits in BITS]:
            raise ValueError("other settings than the sliders have")
        if not record["dense_bytes"] > 0:
            raise ValueError("no size of the dense network")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{RECORD} is damaged ({error}): python -m lib.book.playground") from error
    return record


def gate(root: Path) -> tuple[int, list[str]]:
    """The record of the sliders is complete and made by the present methods; training and file code do not count.

    root: the book's folder.
    Returns how many settings it holds, and a sentence for each thing that is wrong.
    """
    try:
        record = load(root)
    except ValueError as error:
        return 1, [str(error)]
    wrong = [] if record.get("code") == digest(root) else [f"{RECORD} is of other code: python -m lib.book.playground"]
    return len(record["settings"]), wrong


def measured(plan: dict[str, Any]) -> dict[str, Any]:
    """Train, prune, share and store at every setting; return what :func:`load` reads, without the digest.

    plan: like PLAN, the data set, the number of networks, the epochs and the learning rate.
    """
    from lib import datasets, measure, models, storage, training
    from lib.cache import cached, trained
    from lib.pruning import magnitude
    from lib.quantization import deep_compression, scalar_kmeans

    dataset = datasets.load(plan["data"])
    fit = {"split": dataset.train, "epochs": plan["epochs"], "learning_rate": plan["learning_rate"]}
    dense = trained(training.fit, models.lenet_300_100, range(plan["seeds"]), **fit)
    settings = []
    for density in DENSITIES:
        again = {"split": dataset.train, "epochs": plan["retrain_epochs"], "learning_rate": plan["learning_rate"]}
        train: Any = training.fit  # the dense network is trained for as many epochs as the pruned ones
        if density < 100:
            train, again = magnitude.gradual, again | {"density": density / 100, "ramp": plan["retrain_epochs"] // 2}
        kept = [cached(train, copy.deepcopy(net), seed=1000 + seed, **again) for seed, net in enumerate(dense)]
        for bits in BITS:
            networks = [copy.deepcopy(net) for net in kept]
            for net in networks:
                if bits < 32 and density == 100:
                    scalar_kmeans.share(net, bits=bits)
                elif bits < 32:
                    deep_compression.share_survivors(net, bits=bits, start="optimal")
                elif density < 100:
                    magnitude.prune(net, density=1.0)
            row: dict[str, Any] = {"density": density, "bits": bits}
            row["error_pct"] = [round(training.error_pct(net, dataset.test), 4) for net in networks]
            row["bytes"] = [len(storage.dumps(net, coder="huffman")) for net in networks]
            row["histogram"] = histogram(
                networks[0].fc1.weight.detach().flatten().tolist()  # type: ignore[union-attr,operator]
            )
            settings.append(row)
            print(density, bits, row["error_pct"], row["bytes"], flush=True)
    return {"plan": plan, "dense_bytes": measure.dense_bytes(dense[0]), "settings": settings}


def histogram(values: list[float]) -> list[int]:
    """Return how many values fall into each of BINS bins between -EDGE and EDGE; the outer bins take all beyond.

    values: finite numbers, such as weights.

    >>> counts = histogram([0.0, 0.0, -5.0, 0.4])
    >>> counts[BINS // 2], counts[0], counts[-1]
    (2, 1, 1)
    """
    counts = [0] * BINS
    for value in values:
        counts[min(max(int((value + EDGE) / (2 * EDGE) * BINS), 0), BINS - 1)] += 1
    return counts


def main() -> None:
    """Measure, and write the record."""
    root = Path(__file__).parents[2]
    record = {"code": digest(root)} | measured(PLAN)
    files.write(root / RECORD, json.dumps(record, separators=(",", ":")).replace('{"density"', '\n{"density"') + "\n")


if __name__ == "__main__":
    main()
