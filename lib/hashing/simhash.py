r"""SimHash: vectors that point the same way fall into the same bucket of a hash table.

A random direction r, drawn from a normal distribution, gives one bit of a vector: on which side of a plane it lies,

.. math:: h_r(x) = [r^\top x \ge 0], \qquad P[h_r(x) = h_r(y)] = p = 1 - \theta(x, y) / \pi ,

where :math:`\theta` is the angle between the two (charikar2002similarity, section 3). K bits together are the key of a
bucket, and each of L tables has its own directions. So two vectors share a bucket in at least one table with
probability

.. math:: 1 - (1 - p^K)^L

(indyk1998approximate; gionis1999similarity). A query looks at one bucket of each table instead of at all vectors. With
*probes* it also looks at buckets whose key differs in one bit, starting with the least certain bit, the one with the
smallest :math:`|r^\top x|`.

The length of a vector changes nothing. A zero vector has no direction: since :math:`0 \ge 0`, its bits are all 1.
"""

import torch
from torch import Tensor, nn

MATCHES = 2**21  # counted at a time: they take about 100 MB


class Tables(nn.Module):
    """L hash tables over the vectors of a database, with K bits of SimHash as the key.

    database: (n, d) floats, n and d 1 or more, finite.
    bits: K, of each key, in 1..64.
    tables: L, 1 or more.
    seed: integer; with d, bits and tables it determines the directions.

    Raises ValueError for numbers out of range, an empty database, and values that are not finite floats.

    >>> database = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> Tables(database, bits=2, tables=1000, seed=0).query(torch.tensor([[3.0, 0.0]])).tolist()
    [[1000, 264, 0]]
    """

    directions: Tensor  # (tables, bits, d)
    buckets: Tensor  # (tables, n), the keys of the database in rising order
    members: Tensor  # (tables, n), the vector that each of these keys belongs to

    def __init__(self, database: Tensor, *, bits: int, tables: int, seed: int) -> None:
        super().__init__()
        if not 1 <= bits <= 64:
            raise ValueError(f"bits must be in 1..64, since a key is a 64-bit integer, not {bits}")
        if tables < 1:
            raise ValueError(f"tables must be 1 or more, not {tables}")
        check_vectors(database, "the database")
        self.width = database.shape[1]
        for name, drawn in self._drawn(tables, bits, torch.Generator().manual_seed(seed)).items():
            kind = wide(database.dtype) if drawn.is_floating_point() else drawn.dtype
            self.register_buffer(name, drawn.to(database.device, kind))
        self.rebuild(database)

    def _drawn(self, tables: int, bits: int, generator: torch.Generator) -> dict[str, Tensor]:
        """What hashing needs besides the vectors: name of the buffer -> its values."""
        return {"directions": torch.randn(tables, bits, self.width, generator=generator, dtype=torch.float64)}

    @torch.no_grad()
    def rebuild(self, database: Tensor) -> None:
        """Fill the tables with the vectors of a database, in place of those that they held.

        database: (n, d) floats; n may be another number than before.

        Raises ValueError for an empty database, another d, and values that are not finite floats.
        """
        check_vectors(database, "the database", self.width)
        buckets, members = self.keys(database)[..., 0].contiguous().sort(dim=1)
        self.register_buffer("buckets", buckets)
        self.register_buffer("members", members)

    @torch.no_grad()
    def keys(self, vectors: Tensor, probes: int = 0) -> Tensor:
        """Compute the keys of the buckets in which to look for each vector.

        vectors: (queries, d) floats.
        probes: how many more keys to compute, each with one bit flipped, the least certain first; in 0..bits, default
            0.

        Returns (tables, queries, 1 + probes) int64, each vector's own key first.
        Raises ValueError for vectors that are empty, not finite or not of d floats, and for other probes.
        """
        check_vectors(vectors, "the vectors", self.width)
        tables, bits, _ = self.directions.shape
        if not 0 <= probes <= bits:
            raise ValueError(f"probes must be in 0..{bits}, at most one for each bit, not {probes}")
        kind = wide(self.directions.dtype)
        # Dividing a vector by its largest entry keeps its direction, and then no sum overflows or vanishes.
        vectors = vectors.to(torch.promote_types(vectors.dtype, kind))
        largest = vectors.abs().amax(1, keepdim=True)
        unit = (vectors / torch.where(largest > 0, largest, 1)).to(kind)
        # method
        products = (unit @ self.directions.to(kind).flatten(0, 1).T).unflatten(1, (tables, bits))  # r x
        places = torch.ones((), dtype=torch.int64, device=unit.device) << torch.arange(bits, device=unit.device)
        own = ((products >= 0) * places).sum(2, keepdim=True)  # K bits, one integer
        least_certain = products.abs().topk(probes, dim=2, largest=False).indices
        return torch.cat([own, own ^ places[least_certain]], dim=2).transpose(0, 1)
        # end of method

    @torch.no_grad()
    def query(self, vectors: Tensor, *, probes: int = 0) -> Tensor:
        """Count in how many tables each vector of the database is in a bucket that the query looks at.

        vectors: the queries, (queries, d) floats.
        probes: how many buckets each query looks at in each table besides its own, in 0..bits. Default 0.

        Returns (queries, n) int64, in 0..tables: the candidates of a query are those with 1 or more.
        Raises ValueError for vectors that are empty, not finite or not of d floats, and for other probes.
        """
        keys = self.keys(vectors, probes)
        tables, queries, looks = keys.shape
        # method
        wanted = keys.flatten(1).contiguous()
        first = torch.searchsorted(self.buckets, wanted)
        sizes = (torch.searchsorted(self.buckets, wanted, right=True) - first).view(tables, queries, looks)
        # end of method
        first = first.view(tables, queries, looks)
        ends = sizes.sum((0, 2)).cumsum(0) // MATCHES
        parts = ends.unique_consecutive(return_counts=True)[1].tolist()
        pairs = zip(first.split(parts, dim=1), sizes.split(parts, dim=1), strict=True)
        return torch.cat([self._counted(*pair) for pair in pairs])

    def _counted(self, first: Tensor, sizes: Tensor) -> Tensor:
        """Count the members of each query's buckets; a bucket is given by its first member's place and its size."""
        n, (tables, queries, looks) = self.buckets.shape[1], sizes.shape
        number = torch.arange(queries, device=sizes.device)[:, None].expand(tables, queries, looks).flatten()
        start = (first + n * torch.arange(tables, device=sizes.device)[:, None, None]).flatten()
        size = sizes.flatten()
        before = size.cumsum(0) - size  # matches of the buckets before each bucket
        place = torch.arange(int(size.sum()), device=size.device) + (start - before).repeat_interleave(size)
        matches = number.repeat_interleave(size) * n + self.members.flatten()[place]
        return torch.bincount(matches, minlength=queries * n).view(queries, n)

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of hashing one vector: K L d."""
        return self.directions.numel()


def collision_probability(angle: float | Tensor) -> Tensor:
    r"""Return the probability that two vectors have the same bit: :math:`1 - \theta / \pi`.

    angle: between the vectors, radians, in 0..pi; a number or a tensor of any shape.

    Returns a float64 tensor of the shape of ``angle``.
    Raises ValueError for angles outside 0..pi.
    Source: charikar2002similarity, section 3.

    >>> collision_probability(torch.pi / 4)
    tensor(0.7500, dtype=torch.float64)
    """
    angles = torch.as_tensor(angle, dtype=torch.float64)
    if not ((angles >= 0) & (angles <= torch.pi)).all():
        raise ValueError(f"angle must be in 0..pi radians, not {angle}")
    return 1 - angles / torch.pi


def retrieval_probability(angle: float | Tensor, *, bits: int, tables: int) -> Tensor:
    r"""Return the probability that two vectors share a bucket of at least one table: :math:`1 - (1 - p^K)^L`.

    angle: between the vectors, radians, in 0..pi; a number or a tensor of any shape.
    bits: K, of each key, 1 or more.
    tables: L, 1 or more.

    Returns a float64 tensor of the shape of ``angle``.
    Raises ValueError for angles outside 0..pi and for bits or tables below 1.
    Source: indyk1998approximate; gionis1999similarity.

    >>> retrieval_probability(torch.tensor([0.2, 1.5]), bits=6, tables=5)
    tensor([0.9963, 0.0977], dtype=torch.float64)
    """
    if min(bits, tables) < 1:
        raise ValueError(f"bits and tables must be 1 or more, not {bits} and {tables}")
    # log1p and expm1 keep the digits of small probabilities
    return -torch.expm1(tables * torch.log1p(-(collision_probability(angle) ** bits)))


def check_vectors(vectors: Tensor, name: str, width: int | None = None) -> None:
    """Raise ValueError unless the vectors can be hashed.

    vectors: must be finite floats of shape (1 or more, width).
    name: what the message calls them.
    width: of each vector; default None: 1 or more.

    >>> check_vectors(torch.zeros(3, 2), "the database")
    """
    if vectors.dim() != 2 or not vectors.numel() or width not in (None, vectors.shape[1]):
        shape = f"(1 or more, {width or '1 or more'})"
        raise ValueError(f"{name} must be of shape {shape}, not {tuple(vectors.shape)}")
    if not vectors.is_floating_point():
        raise ValueError(f"{name} must be floating-point numbers, not {vectors.dtype}")
    if not torch.isfinite(vectors).all():
        raise ValueError(f"{name} must be finite: there is NaN or infinity")


def wide(kind: torch.dtype) -> torch.dtype:
    """Return the type to hash in: half precision could flip the signs of small products.

    kind: of the vectors.

    >>> wide(torch.float16), wide(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(kind, torch.float32)
