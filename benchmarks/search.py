"""The search for the largest inner products by hash tables, against brute force and against faiss.

All search the same vectors with the same queries, in one process on one thread. Brute force is one product of matrices
and a selection of the largest, as is faiss's ``IndexFlatIP``. Its ``IndexLSH`` is SimHash, which compares angles. It
gets the plain vectors, and in a second race those of Simple-LSH; exact inner products then rank its candidates, as many
as ours has. If faiss cannot be imported, ours races brute force alone. Run with ``make bench``.
"""

import torch
from torch import Tensor

from lib import measure
from lib.hashing import inner_product_search as search

try:
    import faiss
except ImportError:
    faiss = None

VECTORS, WIDTH, QUERIES, COUNT, FRACTION, HASHES, RUNS = (1000, 20_000), 128, 50, 10, 0.05, 256, 21


def given(count: int) -> tuple[Tensor, Tensor]:
    """A database with norms that differ, and queries."""
    random = torch.Generator().manual_seed(0)
    database = torch.randn(count, WIDTH, generator=random)
    lengths = torch.empty(count, 1).uniform_(0.2, 2.0, generator=random)
    return database * lengths, torch.randn(QUERIES, WIDTH, generator=random)


def of_faiss(index: "faiss.Index", vectors: Tensor, queries: Tensor, most: int) -> Tensor:
    """What an index of faiss finds, nearest first."""
    if not index.ntotal:
        index.add(vectors.contiguous().numpy())
    return torch.from_numpy(index.search(queries.contiguous().numpy(), most)[1])


def largest(database: Tensor, queries: Tensor, numbers: Tensor) -> search.Found:
    """The largest exact inner products of the candidates."""
    products = (database[numbers] @ queries[:, :, None])[:, :, 0]
    best = products.topk(COUNT, dim=1)
    return search.Found(numbers.gather(1, best.indices), best.values)


def race(count: int) -> None:
    """Print the time of each search, its ratio to brute force, and its recall of the ten largest."""
    database, queries = given(count)
    most = search.share(count, FRACTION)
    calls = {"brute force": lambda: search.exact(database, queries, COUNT)}
    for transform in ("simple-lsh", "simhash"):
        index = search.Index(database, transform=transform, bits=1, tables=HASHES, seed=0)
        calls[f"ours, {transform}"] = lambda index=index: index.search(queries, COUNT, fraction=FRACTION)
    keyed = search.Index(database, bits=8, tables=HASHES // 8, seed=0)
    calls["ours, keys of 8 bits"] = lambda: keyed.search(queries, COUNT, fraction=FRACTION)
    if faiss is not None:
        flat = faiss.IndexFlatIP(WIDTH)
        numbers = of_faiss(flat, database, queries, COUNT)
        truth = search.exact(database, queries, COUNT)
        assert (numbers == truth.numbers).float().mean() > 0.999, "faiss finds other vectors than brute force"
        calls["faiss, IndexFlatIP"] = lambda: search.Found(of_faiss(flat, database, queries, COUNT), truth.products)
        for transform in ("simple-lsh", "simhash"):
            both = search.TRANSFORMS[transform]
            vectors, asked = both.database(database), both.queries(queries)
            signs = faiss.IndexLSH(vectors.shape[1], HASHES)
            of_faiss(signs, vectors, asked, most)
            calls[f"faiss, IndexLSH, {transform}"] = lambda s=signs, v=vectors, a=asked: largest(
                database, queries, of_faiss(s, v, a, most)
            )
    truth = calls["brute force"]()
    times = measure.latency_ms(calls, runs=RUNS)
    print(f"\n{count:,} vectors of {WIDTH} values, {QUERIES} queries, {FRACTION:.0%} retrieved, {HASHES} hashes")
    for name, call in calls.items():
        ratio = times[name].median / times["brute force"].median
        share = search.recall(call(), truth)
        print(f"  {name:30}{times[name].median:9.2f} ms  time ratio {ratio:7.2f}   recall {100 * share:5.1f} %")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if faiss is None:
        print("faiss is not installed: ours races brute force alone (pip install faiss-cpu)")
    else:
        faiss.omp_set_num_threads(1)
    for count in VECTORS:
        race(count)
