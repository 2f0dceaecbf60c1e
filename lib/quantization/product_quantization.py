r"""Product quantization: short pieces of rows share a few codewords.

The columns of an m × n weight are cut into s segments, :math:`W = [W^1, \dots, W^s]`, and the m pieces of each segment
are clustered into k codewords by k-means,

.. math:: \min_{c^i, a^i} \sum_{z=1}^{m} \lVert w^i_z - c^i_{a^i(z)} \rVert^2, \qquad
          \hat W = [\hat W^1, \dots, \hat W^s], \quad \hat w^i_z = c^i_{a^i(z)} .

With codes of q bits, :math:`k = 2^q`, the codewords take 32 k n bits and the codes q m s: the compression rate is
:math:`32 m n / (32 k n + q m s)` (gong2014vq, section 3.3; jegou2011product).

A four-dimensional weight is treated as the matrix (outputs, inputs · height · width), any other as (first dimension,
the rest). ``vectors="inputs"`` takes the transpose, so that each row holds the weights of one input. A transposed
convolution has its inputs first, so there the two are swapped. The matrix of a recurrent layer has a row for each
output of each gate, that of attention one for each output of query, key and value. The last segment is shorter if the
length does not divide n.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor, nn

from lib.arguments import check_one_of
from lib.quantization import optimal_kmeans
from lib.quantization.shared.names import bits_of, check_names
from lib.weights import CompressedWeight, Encoding, Layer, PackedWeight, compress

VECTORS = ("outputs", "inputs")


@dataclass(frozen=True)
class VectorCodebook:
    """Codewords, and which of them replaces each vector.

    codewords: (k, d) float64.
    codes: (n,) int64, the index of each vector's codeword.
    squared_error: the squared error of the replacement.
    """

    codewords: np.ndarray
    codes: np.ndarray
    squared_error: float


def kmeans(vectors: np.ndarray, k: int, *, seed: int, iterations: int = 25, restarts: int = 3) -> VectorCodebook:
    """Cluster vectors by Lloyd's iteration from k-means++ starts, and keep the best of several runs.

    A cluster that loses all its vectors keeps its codeword. One-dimensional vectors are clustered exactly instead.

    vectors: (n, d) finite numbers, n and d 1 or more.
    k: number of codewords, 1 or more; n if there are fewer vectors.
    seed: of the starts.
    iterations: maximum number of rounds in each run, 1 or more.
    restarts: number of runs, 1 or more.

    Returns the codebook.
    Raises ValueError for no vectors, numbers that are not finite, and a k, iterations or restarts below 1.

    >>> book = kmeans(np.array([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0]]), 2, seed=0)
    >>> sorted(book.codewords.tolist()), book.squared_error
    ([[0.0, 1.0], [9.0, 9.0]], 2.0)
    """
    vectors = np.ascontiguousarray(vectors, dtype=float)
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise ValueError(f"vectors of shape {vectors.shape}: accepted is (n, d) with n, d >= 1 and finite numbers")
    if min(k, iterations, restarts) < 1:
        raise ValueError(f"k, iterations and restarts must be 1 or more, not {k}, {iterations} and {restarts}")
    k = min(k, len(vectors))
    if vectors.shape[1] == 1:
        book = optimal_kmeans.optimal(vectors[:, 0], k)
        centroids = np.pad(book.centroids, (0, k - len(book.centroids)), mode="edge")  # fewer if fewer are distinct
        return VectorCodebook(centroids[:, None], book.codes, book.squared_error)
    draws = np.random.default_rng(seed).random((restarts, k))
    return min((VectorCodebook(*_lloyd(vectors, d, iterations)) for d in draws), key=lambda book: book.squared_error)


@numba.njit("Tuple((float64[:, ::1], int64[::1], float64))(float64[:, ::1], float64[::1], int64)", cache=True)
def _lloyd(x: np.ndarray, draws: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray, float]:
    n, d = x.shape
    k = len(draws)
    centers = np.empty((d, k))  # k last: the distances to all of them are computed side by side
    codes, nearest = np.full(n, -1), np.full(n, np.inf)
    pick = int(draws[0] * n)
    for j in range(k):  # k-means++: a vector is drawn with a chance proportional to its squared distance so far
        if j > 0:
            aim, passed = draws[j] * nearest.sum(), 0.0
            for i in range(n):
                if nearest[i] > 0 and passed <= aim:
                    pick = i
                passed += nearest[i]
        centers[:, j] = x[pick]
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
                    difference = x[i, t] - centers[t, j]
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
                centers[:, j] = sums[:, j] / counts[j]
    return centers.T.copy(), codes, nearest.sum()


class ProductWeight(CompressedWeight):
    """Codewords looked up piece by piece. The parameter is all codewords, flat.

    bits: of a code, 1 to 16; k = 2^bits codewords for each segment.
    length: columns of a segment, 1 or more.
    vectors: "outputs" if a row holds the weights of an output, "inputs" if it holds those of an input.
    shared: whether all segments, then of equal length, share one codebook.
    seed: of the clustering.
    """

    codes: Tensor
    places: Tensor

    def __init__(
        self, bits: int, *, length: int, vectors: str = "outputs", shared: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        check_vectors(vectors)
        if length < 1:
            raise ValueError(f"length must be 1 or more, not {length}")
        self.bits, self.length, self.vectors, self.shared, self.seed = bits, length, vectors, shared, seed

    def right_inverse(self, weight: Tensor) -> Tensor:
        rows = matrix(weight.detach(), self.vectors).double().cpu().numpy()
        self.length = min(self.length, rows.shape[1])
        check_length(self.length, rows.shape[1], shared=self.shared)
        # method
        pieces = np.split(rows, range(self.length, rows.shape[1], self.length), axis=1)
        # end of method
        if self.shared:
            book = kmeans(np.concatenate(pieces), 2**self.bits, seed=self.seed)
            books, codes = [book], book.codes.reshape(len(pieces), -1)
        else:
            # method
            books = [kmeans(piece, 2**self.bits, seed=self.seed) for piece in pieces]
            codes = np.stack([book.codes for book in books])
            # end of method
        self.register_buffer("codes", torch.from_numpy(codes.T.copy()).to(weight.device))  # (rows, segments)
        codewords = torch.from_numpy(np.concatenate([book.codewords.ravel() for book in books])).to(weight)
        self.register_buffer("places", _places(self.codes, len(codewords), weight.shape, *self._layout()))
        return codewords

    def forward(self, codewords: Tensor) -> Tensor:
        return codewords.index_select(0, self.places.flatten()).reshape(self.places.shape)

    def encode(self, codewords: Tensor) -> Encoding:
        layout = torch.tensor(self._layout(), dtype=torch.float32)
        return Encoding(symbols={"code": self.codes.flatten()}, tables={"codeword": codewords, "layout": layout})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        codewords = encoding.tables["codeword"]
        length, by_input, shared = encoding.whole("layout", 3)
        rows, columns = sizes(shape, VECTORS[by_input])
        if not 1 <= length <= columns or by_input < 0 or shared not in (0, 1):
            raise ValueError(f"its layout is {length}, {by_input}, {shared}: accepted is 1..{columns}, 0..1, 0..1")
        check_length(length, columns, shared=bool(shared))
        codes = encoding.symbols["code"].reshape(rows, -(-columns // length))
        return codewords[_places(codes, len(codewords), shape, length, by_input, shared)]

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {"code": shape.numel()}, {"codeword": shape.numel(), "layout": 3}

    def _layout(self) -> tuple[int, int, int]:
        return self.length, VECTORS.index(self.vectors), int(self.shared)


def _places(codes: Tensor, total: int, shape: torch.Size, length: int, by_input: int, shared: int) -> Tensor:
    """The index of each weight in the flat codewords, which are stored segment after segment."""
    _, columns = sizes(shape, VECTORS[by_input])
    column = torch.arange(columns, device=codes.device)
    segment, within = column // length, column % length
    width = (columns - segment * length).clamp(max=length)  # of the column's segment
    start = torch.zeros_like(column) if shared else total // columns * segment * length
    places = start + codes[:, segment] * width + within
    return (places.T if by_input else places).reshape(shape)


def matrix(weight: Tensor, vectors: str) -> Tensor:
    """Reshape a weight to the matrix whose rows are cut into pieces.

    weight: (outputs, ...).
    vectors: "outputs" for (outputs, rest), "inputs" for its transpose.

    >>> matrix(torch.zeros(20, 6, 5, 5), "inputs").shape
    torch.Size([150, 20])
    """
    rows = weight.reshape(len(weight), -1)
    return rows.T if vectors == "inputs" else rows


def sizes(shape: torch.Size, vectors: str) -> tuple[int, int]:
    """Count the rows and columns of the matrix that :func:`matrix` makes of a weight.

    shape: of the weight, (outputs, ...).
    vectors: "outputs" or "inputs".

    >>> sizes(torch.Size([20, 6, 5, 5]), "inputs")
    (150, 20)
    """
    outputs, rest = shape[0], shape[1:].numel()
    return (rest, outputs) if vectors == "inputs" else (outputs, rest)


def check_vectors(vectors: str) -> None:
    """Raise ValueError for anything but "outputs" and "inputs"."""
    check_one_of("vectors", vectors, VECTORS)


def check_length(length: int, columns: int, *, shared: bool, name: str = "") -> None:
    """Raise ValueError if one codebook cannot serve all segments because the last one would be shorter.

    length: columns of a segment.
    columns: of the matrix.
    shared: whether all segments share one codebook.
    name: of the layer, for the error.

    >>> check_length(4, 10, shared=True)
    Traceback (most recent call last):
    ValueError: segments of 4 do not divide the 10 columns: one shared codebook needs 1, 2, 5, 10
    """
    if shared and columns % length:
        accepted = ", ".join(str(n) for n in range(1, columns + 1) if columns % n == 0)
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
    """Let the pieces of each segment of a layer share 2^bits codewords. In place.

    model: any network.
    bits: of each code, 1 to 16, for all layers or by layer name; layers not named are left alone. A layer with fewer
        rows than codewords gets one codeword per row.
    length: weights in a piece, 1 or more; a layer with fewer columns is one segment.
    vectors: "outputs" if a row holds the weights of an output, "inputs" if it holds those of an input.
    shared: whether all segments of a layer share one codebook; ``length`` must then divide the columns.
    seed: of the clustering.

    Returns the model. Raises ValueError for bits outside 1..16, an unknown layer, unknown ``vectors``, a length below
    1, and, if ``shared``, one that does not divide the columns of a layer (gong2014vq, section 3.3).

    >>> layer = quantize(nn.Linear(40, 50), bits=3, length=4)
    >>> len(layer.weight[:, :4].unique(dim=0))  # the first pieces of the 50 rows
    8
    """
    check_names(model, bits)

    def form(name: str, layer: Layer | PackedWeight) -> ProductWeight | None:
        if (chosen := bits_of(bits, name)) is None:
            return None
        made = ProductWeight(chosen, length=length, vectors=vectors, shared=shared, seed=seed)
        _, columns = sizes(layer.weight.shape, vectors)
        check_length(min(length, columns), columns, shared=shared, name=name)
        return made

    return compress(model, form)


def compression_rate(rows: int, columns: int, *, bits: int, length: int) -> float:
    """Compute how many times smaller a layer gets: 32 m n / (32 k n + q m s) (gong2014vq, section 3.3).

    rows: m, of the matrix.
    columns: n, of the matrix.
    bits: q, of a code; k = 2^q codewords in each of s segments.
    length: columns of a segment.

    >>> compression_rate(1024, 64, bits=4, length=4)
    21.333333333333332
    """
    segments = -(-columns // length)
    return 32 * rows * columns / (32 * 2**bits * columns + bits * rows * segments)
