r"""Search for the largest inner products by hashing: asymmetric transforms turn them into small angles or distances.

SimHash finds vectors of similar direction, but the largest :math:`q^\top x` may be that of a long vector that points
elsewhere. So the database and the queries are transformed, each in its own way, to make the vector with the largest
inner product the nearest one. The database is first scaled to a largest norm U, which keeps the order:

============ ===== ============================================================== ===================== ===============
transform    U     P(x) of the database                                           Q(q), |q| = 1         what is hashed
============ ===== ============================================================== ===================== ===============
simhash            x                                                              q                     angle
l2-alsh      0.83  :math:`x; |x|^2; |x|^4; \dots; |x|^{2^m}`, m = 3               q; 1/2; ...; 1/2      distance
sign-alsh    0.75  :math:`x; 1/2 - |x|^2; \dots; 1/2 - |x|^{2^m}`, m = 2          q; 0; ...; 0          angle
simple-lsh   1     :math:`x; \sqrt{1 - |x|^2}`                                    q; 0                  angle
============ ===== ============================================================== ===================== ===============

- L2-ALSH (shrivastava2014alsh): :math:`|Q(q) - P(x)|^2 = 1 + m/4 - 2 q^\top x + |x|^{2^{m+1}}`. As m grows, the last
  term vanishes.
- Sign-ALSH (shrivastava2015improved): the cosine of P and Q is :math:`q^\top x / \sqrt{m/4 + |x|^{2^{m+1}}}`.
- Simple-LSH (neyshabur2015symmetric): the cosine of P and Q is :math:`q^\top x` itself.
- SimHash (charikar2002similarity) has no transform, and is here for contrast.

Candidates are ranked by the number of tables in which they share a bucket with the query, as in the recall curves of
the sources; among those that are retrieved, the exact inner products decide.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.arguments import check_one_of
from lib.hashing.simhash import Tables, check_vectors, wide

WIDTH = 2.5  # r of the hash of L2-ALSH, which its source recommends
PRODUCTS = 2**22  # values gathered at a time when inner products are computed


def scaled(vectors: Tensor, norm: float) -> Tensor:
    """Multiply all vectors by one factor, so that the longest has this norm. Zeros stay zeros.

    vectors: (n, d).
    norm: U, positive.

    Raises ValueError for another norm, and for vectors that are empty or not finite floats; so do all functions here.

    >>> scaled(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), norm=1.0)
    tensor([[0.6000, 0.8000],
            [0.0000, 0.2000]])
    """
    check_vectors(vectors, "the vectors")
    if not 0 < norm < math.inf:
        raise ValueError(f"norm must be positive and finite, not {norm}")
    largest = vectors.abs().max()
    unit = vectors / torch.where(largest > 0, largest, 1)  # squares neither overflow nor vanish
    longest = unit.norm(dim=1).max()
    return unit * (norm / torch.where(longest > 0, longest, 1))


def unchanged(vectors: Tensor) -> Tensor:
    """Return the vectors themselves: plain SimHash transforms neither database nor queries.

    vectors: (n, d).
    """
    return vectors


def l2_database(vectors: Tensor, *, norm: float = 0.83, terms: int = 3) -> Tensor:
    """Compute P of L2-ALSH: the scaled vectors x, and |x|^2, |x|^4, ..., |x|^(2^m) (shrivastava2014alsh).

    vectors: the database, (n, d).
    norm: U, the largest norm after scaling, in (0, 1). Default 0.83, which the source recommends.
    terms: m, 1 or more, default 3, which the source recommends.

    Returns (n, d + terms).
    """
    _check(norm, terms)
    x = scaled(vectors, norm)
    return torch.cat([x, _powers(x, terms)], dim=1)


def l2_queries(vectors: Tensor, *, terms: int = 3) -> Tensor:
    """Compute Q of L2-ALSH: the normalized queries, and m times 1/2 (shrivastava2014alsh).

    vectors: the queries, (queries, d).
    terms: m, as in :func:`l2_database`.

    Returns (queries, d + terms).
    """
    _check(0.5, terms)
    return nn.functional.pad(_unit(vectors), (0, terms), value=0.5)


def sign_database(vectors: Tensor, *, norm: float = 0.75, terms: int = 2) -> Tensor:
    """Compute P of Sign-ALSH: the scaled vectors x, and 1/2 - |x|^2, ..., 1/2 - |x|^(2^m) (shrivastava2015improved).

    vectors: the database, (n, d).
    norm: U, the largest norm after scaling, in (0, 1). Default 0.75.
    terms: m, 1 or more, default 2.

    Returns (n, d + terms).
    """
    _check(norm, terms)
    x = scaled(vectors, norm)
    return torch.cat([x, 0.5 - _powers(x, terms)], dim=1)


def sign_queries(vectors: Tensor, *, terms: int = 2) -> Tensor:
    """Compute Q of Sign-ALSH: the normalized queries, and m zeros (shrivastava2015improved).

    vectors: the queries, (queries, d).
    terms: m, as in :func:`sign_database`.

    Returns (queries, d + terms).
    """
    _check(0.5, terms)
    return nn.functional.pad(_unit(vectors), (0, terms))


def simple_database(vectors: Tensor) -> Tensor:
    """Compute P of Simple-LSH: the scaled vectors, and a value that makes their norm 1 (neyshabur2015symmetric).

    vectors: the database, (n, d).

    Returns (n, d + 1), each of norm 1.
    """
    # method
    x = scaled(vectors, 1.0)
    return torch.cat([x, (1 - x.square().sum(1, keepdim=True)).clamp(min=0).sqrt()], dim=1)
    # end of method


def simple_queries(vectors: Tensor) -> Tensor:
    """Compute Q of Simple-LSH: the normalized queries, and a zero (neyshabur2015symmetric).

    vectors: the queries, (queries, d).

    Returns (queries, d + 1).
    """
    # method
    return nn.functional.pad(_unit(vectors), (0, 1))
    # end of method


def _check(norm: float, terms: int) -> None:
    if not 0 < norm < 1:  # the powers of norms must fall
        raise ValueError(f"norm must be in (0, 1), not {norm}")
    if terms < 1:
        raise ValueError(f"terms must be 1 or more, not {terms}")


def _unit(vectors: Tensor) -> Tensor:
    """Each vector at norm 1; zeros stay zeros."""
    check_vectors(vectors, "the queries")
    largest = vectors.abs().amax(1, keepdim=True)
    shrunk = vectors / torch.where(largest > 0, largest, 1)  # squares neither overflow nor vanish
    norms = shrunk.norm(dim=1, keepdim=True)
    return shrunk / torch.where(norms > 0, norms, 1)


def _powers(vectors: Tensor, terms: int) -> Tensor:
    """|x|^2, |x|^4, ..., |x|^(2^terms), (n, terms)."""
    squared = vectors.square().sum(1, keepdim=True)
    return torch.cat([squared ** (2**i) for i in range(terms)], dim=1)


class DistanceTables(Tables):
    r"""Hash tables in which near vectors share a bucket: K hashes :math:`\lfloor (a^\top v + b) / r \rfloor` are a key.

    a is drawn from a normal distribution, b uniformly from [0, r), and r is 2.5 (shrivastava2014alsh). The arguments
    are those of :class:`lib.hashing.simhash.Tables`.
    """

    offsets: Tensor  # b, (tables, bits)
    factors: Tensor  # odd integers that make one key of K hashes, (bits,)

    def _drawn(self, tables: int, bits: int, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = super()._drawn(tables, bits, generator)
        drawn["offsets"] = WIDTH * torch.rand(tables, bits, generator=generator, dtype=torch.float64)
        drawn["factors"] = 2 * torch.randint(-(2**62), 2**62, (bits,), generator=generator) + 1
        return drawn

    @torch.no_grad()
    def keys(self, vectors: Tensor, probes: int = 0) -> Tensor:
        """Compute the keys of the vectors, as :meth:`lib.hashing.simhash.Tables.keys` does.

        vectors: (queries, d) floats.
        probes: must be 0, since these hashes are not bits that could be flipped.

        Returns (tables, queries, 1) int64.
        Raises ValueError for vectors that are empty, not finite or not of d floats, and for other probes.
        """
        check_vectors(vectors, "the vectors", self.width)
        if probes != 0:
            raise ValueError(f"probes must be 0 with hashes of distances, which have no bit to flip, not {probes}")
        kind = wide(self.directions.dtype)
        products = vectors.to(kind) @ self.directions.to(kind).flatten(0, 1).T
        hashes = ((products.unflatten(1, self.offsets.shape) + self.offsets.to(kind)) / WIDTH).floor().long()
        return (hashes * self.factors).sum(2, keepdim=True).transpose(0, 1)  # modulo 2^64: two keys rarely meet


@dataclass(frozen=True)
class Transform:
    """What a method does to both sides before it hashes them.

    database: P.
    queries: Q.
    tables: the class of tables that hash the results.
    """

    database: Callable[[Tensor], Tensor]
    queries: Callable[[Tensor], Tensor]
    tables: type[Tables] = Tables


TRANSFORMS = {
    "simhash": Transform(unchanged, unchanged),
    "l2-alsh": Transform(l2_database, l2_queries, DistanceTables),
    "sign-alsh": Transform(sign_database, sign_queries),
    "simple-lsh": Transform(simple_database, simple_queries),
}


class Candidates(nn.Module):
    """The vectors of a database that may have large inner products with a query: they often share a bucket with it.

    database: (n, d) floats, n and d 1 or more, finite. It is hashed, but not kept.
    transform: "simple-lsh" (default), "sign-alsh", "l2-alsh" or "simhash"; see the table of the module.
    bits: K, hashes in a key, in 1..64. With 1, the number of shared buckets is the number of equal hashes.
    tables: L, 1 or more.
    seed: integer, of the hashes, and of the order of candidates with the same number of shared buckets.

    Raises ValueError for another transform, numbers out of range, and a database that is empty or not of finite floats.

    >>> database = torch.tensor([[0.3, 0.0], [3.0, 4.0], [0.0, 1.0]])
    >>> query = torch.tensor([[1.0, 0.0]])  # inner products 0.3, 3 and 0
    >>> for transform in ("simhash", "simple-lsh"):
    ...     Candidates(database, transform=transform, bits=1, tables=1000, seed=0).retrieve(query, 1).tolist()
    [[0]]
    [[1]]
    """

    ties: Tensor  # (n,), a permutation: the order of candidates with the same number of shared buckets

    def __init__(self, database: Tensor, *, transform: str = "simple-lsh", bits: int, tables: int, seed: int) -> None:
        super().__init__()
        check_one_of("transform", transform, TRANSFORMS)
        check_vectors(database, "the database")
        self.transform, self.width = transform, database.shape[1]
        ties = torch.randperm(len(database), generator=torch.Generator().manual_seed(seed))
        self.register_buffer("ties", ties.to(database.device))
        made = TRANSFORMS[transform].database(database.detach().to(wide(database.dtype)))
        self.tables = TRANSFORMS[transform].tables(made, bits=bits, tables=tables, seed=seed)

    @torch.no_grad()
    def rebuild(self, database: Tensor) -> None:
        """Hash the vectors again after they have changed, scaled by their new largest norm.

        database: (n, d) floats, n and d as before.

        Raises ValueError for another shape and for values that are not finite floats.
        """
        check_vectors(database, "the database", self.width)
        if len(database) != len(self.ties):
            raise ValueError(f"the database must have {len(self.ties)} vectors as before, not {len(database)}")
        self.tables.rebuild(TRANSFORMS[self.transform].database(database.to(wide(database.dtype))))

    @torch.no_grad()
    def counts(self, queries: Tensor, *, probes: int = 0) -> Tensor:
        """Count the tables in which each vector of the database shares a bucket with each query.

        queries: (queries, d) floats.
        probes: buckets that a query looks at in each table besides its own, in 0..bits; 0 with "l2-alsh". Default 0.

        Returns (queries, n) int64.
        Raises ValueError for queries that are empty, not finite or not of d floats, and for other probes.
        """
        check_vectors(queries, "the queries", self.width)
        return self.tables.query(TRANSFORMS[self.transform].queries(queries.to(wide(queries.dtype))), probes=probes)

    @torch.no_grad()
    def retrieve(self, queries: Tensor, most: int, *, probes: int = 0) -> Tensor:
        """Return the vectors that share the most buckets with each query, those with the most first.

        The seed decides the order of vectors that share equally many; those that share none come last.

        queries: (queries, d) floats.
        most: how many to return for each query, in 1..n.
        probes: as in :meth:`counts`.

        Returns their numbers in the database, (queries, most) int64.
        Raises ValueError for a number out of range, and as :meth:`counts` does.
        """
        n = len(self.ties)
        if not 1 <= most <= n:
            raise ValueError(f"the database has {n} vectors: most must be in 1..{n}, not {most}")
        # method
        ranks = self.counts(queries, probes=probes) * n + self.ties
        return ranks.topk(most, dim=1).indices
        # end of method


@dataclass(frozen=True)
class Found:
    """The vectors with the largest inner products, for each query, the largest first.

    numbers: of the vectors in the database, (queries, count) int64.
    products: their inner products with the query, (queries, count).
    """

    numbers: Tensor
    products: Tensor


class Index(Candidates):
    """A search for the largest inner products that computes only those of the candidates.

    database: (n, d) floats, n and d 1 or more, finite; it is kept.
    transform, bits, tables, seed: as for :class:`Candidates`, with the same defaults and errors.

    >>> random = torch.Generator().manual_seed(0)
    >>> database, queries = torch.randn(1000, 20, generator=random), torch.randn(100, 20, generator=random)
    >>> found = Index(database, bits=1, tables=128, seed=0).search(queries, 10, fraction=0.2)
    >>> recall(found, exact(database, queries, 10)) > 0.7
    True
    """

    database: Tensor

    def __init__(self, database: Tensor, *, transform: str = "simple-lsh", bits: int, tables: int, seed: int) -> None:
        super().__init__(database, transform=transform, bits=bits, tables=tables, seed=seed)
        self.register_buffer("database", database.detach().clone())

    @torch.no_grad()
    def rebuild(self, database: Tensor) -> None:
        """Search this database from now on.

        database: (n, d) floats, n and d as before.

        Raises ValueError for another shape and for values that are not finite floats.
        """
        super().rebuild(database)
        self.register_buffer("database", database.detach().clone())

    @torch.no_grad()
    def search(self, queries: Tensor, count: int, *, fraction: float, probes: int = 0) -> Found:
        """Find the largest inner products among the candidates.

        queries: (queries, d) floats.
        count: how many to find for each query, 1 or more.
        fraction: share of the database to retrieve, in (0, 1]; at least ``count`` vectors. With 1 the answer is exact.
        probes: as in :meth:`Candidates.counts`.

        Returns them as :class:`Found`.
        Raises ValueError for numbers out of range, and for queries that are empty, not finite or not of d floats.
        """
        retrieved = share(len(self.database), fraction)
        if not 1 <= count <= retrieved:
            raise ValueError(
                f"fraction {fraction} of {len(self.database)} vectors retrieves {retrieved}: count must be in"
                f" 1..{retrieved}, not {count}"
            )
        numbers = self.retrieve(queries, retrieved, probes=probes)
        size = max(1, PRODUCTS // (retrieved * self.width))
        pairs = zip(queries.to(self.database).split(size), numbers.split(size), strict=True)
        products = torch.cat([(self.database[chosen] @ query[:, :, None])[:, :, 0] for query, chosen in pairs])
        largest = products.topk(count, dim=1)
        return Found(numbers.gather(1, largest.indices), largest.values)


@torch.no_grad()
def exact(database: Tensor, queries: Tensor, count: int) -> Found:
    """Find the largest inner products by computing all of them.

    database: (n, d) floats, finite.
    queries: (queries, d) floats, finite.
    count: how many to find for each query, in 1..n.

    Raises ValueError for a number out of range, and for vectors that are empty, not finite or not of d floats.

    >>> exact(torch.eye(3), torch.tensor([[1.0, 3.0, 2.0]]), 2)
    Found(numbers=tensor([[1, 2]]), products=tensor([[3., 2.]]))
    """
    check_vectors(database, "the database")
    check_vectors(queries, "the queries", database.shape[1])
    if not 1 <= count <= len(database):
        raise ValueError(f"count must be in 1..{len(database)}, the vectors of the database, not {count}")
    largest = (queries.to(database) @ database.T).topk(count, dim=1)
    return Found(largest.indices, largest.values)


def recall(found: Found, truth: Found) -> float:
    """Return the share of the true vectors that were found, over all queries.

    found: by :meth:`Index.search`.
    truth: by :func:`exact`, for the same queries.

    Raises ValueError if the two have different numbers of queries.

    >>> truth = exact(torch.eye(3), torch.tensor([[1.0, 3.0, 2.0]]), 2)
    >>> recall(Found(torch.tensor([[0, 1]]), torch.tensor([[1.0, 3.0]])), truth)
    0.5
    """
    if len(found.numbers) != len(truth.numbers):
        raise ValueError(
            f"found is of {len(found.numbers)} queries and truth of {len(truth.numbers)}: both must be of the same"
        )
    hits = (found.numbers[:, :, None] == truth.numbers[:, None, :]).any(1)
    return hits.double().mean().item()


def share(total: int, fraction: float) -> int:
    """Return a fraction of a total, rounded down, but at least 1.

    total: 1 or more.
    fraction: in (0, 1].

    Raises ValueError for a fraction outside (0, 1].

    >>> share(1000, 0.05), share(10, 0.05), share(100, 0.29)
    (50, 1, 29)
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], not {fraction}")
    return max(1, math.floor(total * fraction + 1e-9))  # 0.29 x 100 is 28.999...
