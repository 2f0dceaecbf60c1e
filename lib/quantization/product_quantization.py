r"""Product quantization: short pieces of rows share a few codewords.

The columns of an m × n weight are cut into s segments, :math:`W = [W^1, \dots, W^s]`, and the m pieces of each segment
are clustered into k codewords by k-means,

.. math:: \min_{c^i, a^i} \sum_{z=1}^{m} \lVert w^i_z - c^i_{a^i(z)} \rVert^2, \qquad
          \hat W = [\hat W^1, \dots, \hat W^s], \quad \hat w^i_z = c^i_{a^i(z)} .

With codes of q bits, :math:`k = 2^q`, the codewords take 32 k n bits and the codes q m s: the compression rate is
:math:`32 m n / (32 k n + q m s)` (gong2014vq, section 3.3; jegou2011product).

A weight of four dimensions is seen as the matrix (outputs, inputs · height · width), any other as (first dimension,
the rest); ``vectors="inputs"`` takes its transpose, so that what leaves one input is a row. The last segment is shorter
where the length does not divide n.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor, nn

from lib.quantization import optimal_kmeans
from lib.quantization.shared.names import bits_of, check_names
from lib.weights import CompressedWeight, Encoding, compress

VECTORS = ("outputs", "inputs")


@dataclass(frozen=True)
class VectorCodebook:
    """codewords: (k, d) float64; codes: (n,) int64, the codeword of each vector; squared_error: the loss."""

    codewords: np.ndarray
    codes: np.ndarray
    squared_error: float


def kmeans(vectors: np.ndarray, k: int, *, seed: int, iterations: int = 25, restarts: int = 3) -> VectorCodebook:
    """k codewords for n vectors by Lloyd's iteration from k-means++ starts, the best of ``restarts`` runs.

    vectors: (n, d) finite numbers. Vectors of one number are clustered exactly instead. A cluster that loses all its
    vectors keeps its codeword; more clusters than vectors give one codeword a vector.
    Raises ValueError on no vectors, numbers that are not finite, and a k, iterations or restarts below 1.
    """
    vectors = np.ascontiguousarray(vectors, dtype=float)
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise ValueError(f"vectors of shape {vectors.shape}: accepted is (n, d) with n, d >= 1 and finite numbers")
    if min(k, iterations, restarts) < 1:
        raise ValueError(f"k, iterations and restarts must be 1 or more, not {k}, {iterations} and {restarts}")
    k = min(k, len(vectors))
    if vectors.shape[1] == 1:
        book = optimal_kmeans.optimal(vectors[:, 0], k)
        centroids = np.pad(book.centroids, (0, k - len(book.centroids)), mode="edge")  # fewer where fewer are distinct
        return VectorCodebook(centroids[:, None], book.codes, book.squared_error)
    draws = np.random.default_rng(seed).random((restarts, k))
    return min((VectorCodebook(*_lloyd(vectors, d, iterations)) for d in draws), key=lambda book: book.squared_error)


@numba.njit("Tuple((float64[:, ::1], int64[::1], float64))(float64[:, ::1], float64[::1], int64)", cache=True)
def _lloyd(x, draws, iterations):
    n, d = x.shape
    k = len(draws)
    centres = np.empty((d, k))  # k last: the distances to all of them are computed side by side
    codes, nearest = np.full(n, -1), np.full(n, np.inf)
    pick = int(draws[0] * n)
    for j in range(k):  # k-means++: a vector is drawn with a chance that grows with its squared distance so far
        if j > 0:
            aim, passed = draws[j] * nearest.sum(), 0.0
            for i in range(n):
                if nearest[i] > 0 and passed <= aim:
                    pick = i
                passed += nearest[i]
        centres[:, j] = x[pick]
        for i in range(n):
            apart = 0.0
            for t in range(d):
                apart += (x[i, t] - x[pick, t]) ** 2
            nearest[i] = min(nearest[i], apart)
    distance = np.empty(k)
    for step in range(iterations + 1):
        moved = False
        for i in range(n):
            distance[:] = 0
            for t in range(d):
                for j in range(k):
                    difference = x[i, t] - centres[t, j]
                    distance[j] += difference * difference
            best = 0
            for j in range(1, k):
                if distance[j] < distance[best]:
                    best = j
            moved |= best != codes[i]
            codes[i], nearest[i] = best, distance[best]
        if not moved or step == iterations:
            break
        sums, counts = np.zeros((d, k)), np.zeros(k)
        for i in range(n):
            counts[codes[i]] += 1
            for t in range(d):
                sums[t, codes[i]] += x[i, t]
        for j in range(k):
            if counts[j] > 0:
                centres[:, j] = sums[:, j] / counts[j]
    return centres.T.copy(), codes, nearest.sum()


class ProductWeight(CompressedWeight):
    """Codewords looked up piece by piece. Stored, and trained if the network is: all codewords, flat.

    bits: of a code, k = 2^bits. length: columns of a segment. vectors: whether a row holds an output's weights or an
    input's. shared: one codebook for all segments, of one length then.
    """

    def __init__(
        self, bits: int, *, length: int, vectors: str = "outputs", shared: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        check_vectors(vectors)
        if length < 1:
            raise ValueError(f"the length of a segment must be 1 or more, not {length}")
        self.bits, self.length, self.vectors, self.shared, self.seed = bits, length, vectors, shared, seed

    def right_inverse(self, weight: Tensor) -> Tensor:
        rows = matrix(weight.detach(), self.vectors).double().numpy()
        self.length = min(self.length, rows.shape[1])
        check_length(self.length, rows.shape[1], shared=self.shared)
        pieces = np.split(rows, range(self.length, rows.shape[1], self.length), axis=1)
        if self.shared:
            book = kmeans(np.concatenate(pieces), 2**self.bits, seed=self.seed)
            books, codes = [book], book.codes.reshape(len(pieces), -1)
        else:
            books = [kmeans(piece, 2**self.bits, seed=self.seed) for piece in pieces]
            codes = np.stack([book.codes for book in books])
        self.register_buffer("codes", torch.from_numpy(codes.T.copy()))  # (rows, segments)
        codewords = torch.from_numpy(np.concatenate([book.codewords.ravel() for book in books])).to(weight.dtype)
        self.register_buffer("places", _places(self.codes, len(codewords), weight.shape, *self._layout()))
        return codewords

    def forward(self, codewords: Tensor) -> Tensor:
        return codewords.index_select(0, self.places.flatten()).reshape(self.places.shape)

    def encode(self, codewords: Tensor) -> Encoding:
        layout = torch.tensor(self._layout(), dtype=torch.float32)
        return Encoding(symbols={"code": self.codes.flatten()}, tables={"codeword": codewords, "layout": layout})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        codewords, codes = encoding.tables["codeword"], encoding.symbols["code"]
        length, by_input, shared = encoding.tables["layout"].long().tolist()
        rows, _ = sizes(shape, VECTORS[by_input])
        return codewords[_places(codes.reshape(rows, -1), len(codewords), shape, length, by_input, shared)]

    def _layout(self) -> tuple[int, int, int]:
        return self.length, VECTORS.index(self.vectors), int(self.shared)


def _places(codes: Tensor, total: int, shape: torch.Size, length: int, by_input: int, shared: int) -> Tensor:
    """For each weight its place among all codewords, which stand segment after segment."""
    _, columns = sizes(shape, VECTORS[by_input])
    column = torch.arange(columns)
    segment, within = column // length, column % length
    width = (columns - segment * length).clamp(max=length)  # of the column's segment
    start = torch.zeros_like(column) if shared else total // columns * segment * length
    found = start + codes[:, segment] * width + within
    return (found.T if by_input else found).reshape(shape)


def matrix(weight: Tensor, vectors: str) -> Tensor:
    """The weight as the matrix whose rows are clustered: (outputs, rest), or its transpose for "inputs"."""
    rows = weight.reshape(len(weight), -1)
    return rows.T if vectors == "inputs" else rows


def sizes(shape: torch.Size, vectors: str) -> tuple[int, int]:
    """Rows and columns of that matrix, for a weight of ``shape``."""
    outputs, rest = shape[0], shape[1:].numel()
    return (rest, outputs) if vectors == "inputs" else (outputs, rest)


def check_vectors(vectors: str) -> None:
    """ValueError for a name that is neither of VECTORS."""
    if vectors not in VECTORS:
        raise ValueError(f"vectors must be one of {', '.join(VECTORS)}, not {vectors!r}")


def check_length(length: int, columns: int, *, shared: bool, name: str = "") -> None:
    """ValueError where one codebook cannot serve all segments, because the last of them would be shorter."""
    if shared and columns % length:
        accepted = ", ".join(str(each) for each in range(1, columns + 1) if columns % each == 0)
        of = f" of layer {name!r}" if name else ""
        raise ValueError(
            f"segments of {length} do not divide the {columns} columns{of}: one shared codebook needs {accepted}"
        )


def quantize(
    model: nn.Module,
    *,
    bits: int | Mapping[str, int],
    length: int,
    vectors: str = "outputs",
    shared: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Let pieces of ``length`` weights share 2^bits codewords, a codebook for each segment of a layer. In place.

    bits: of each code, 1 to 16, for all layers or by layer name (layers not named are left alone). A layer with fewer
    rows than codewords gets one codeword a row; one with fewer columns than ``length`` is one segment.
    Returns the model. Raises ValueError on bits outside 1..16, an unknown layer, unknown ``vectors``, a length below 1,
    and one that does not divide the columns of a layer where ``shared``.
    """
    check_names(model, bits)

    def form(name: str, layer: nn.Module) -> ProductWeight | None:
        if (chosen := bits_of(bits, name)) is None:
            return None
        made = ProductWeight(chosen, length=length, vectors=vectors, shared=shared, seed=seed)
        _, columns = sizes(layer.weight.shape, vectors)
        check_length(min(length, columns), columns, shared=shared, name=name)
        return made

    return compress(model, form)


def compression_rate(rows: int, columns: int, *, bits: int, length: int) -> float:
    """32 m n / (32 k n + q m s) for k = 2^q codewords in each of s segments (gong2014vq)."""
    segments = -(-columns // length)
    return 32 * rows * columns / (32 * 2**bits * columns + bits * rows * segments)
