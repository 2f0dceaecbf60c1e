r"""Residual quantization: whole rows share codewords, and the remaining error is quantized again.

With the rows of an m × n weight as :math:`R_0 = W`, stage t clusters what the earlier stages missed,

.. math:: R_t = R_{t-1} - \hat R_{t-1}, \qquad \hat w_z = \sum_{t=1}^{T} c^t_{a_t(z)} ,

where :math:`\hat R_{t-1}` replaces each row of :math:`R_{t-1}` by the nearest of the k codewords of stage t, found by
k-means. T stages with codes of q bits, :math:`k = 2^q`, take T (32 k n + q m) bits: codewords are as long as a row, so
the codebooks soon outweigh the codes (gong2014vq, section 3.4). The rows are those of the matrix that product
quantization cuts into pieces, see :func:`lib.quantization.product_quantization.matrix`.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lib.quantization.product_quantization import VECTORS, check_vectors, kmeans, matrix, sizes
from lib.quantization.shared.names import bits_of, check_names
from lib.weights import CompressedWeight, Encoding, compress

STAGES = 255  # at most


class ResidualWeight(CompressedWeight):
    """The sum of one codeword from each stage. The parameter is the codewords, (stages, k, columns).

    bits: of a code, 1 to 16; k = 2^bits codewords in a stage.
    stages: number of codebooks, 1 to 255.
    vectors: "outputs" if a row holds the weights of an output, "inputs" if it holds those of an input.
    seed: of the clustering.
    """

    codes: Tensor
    shape: torch.Size

    def __init__(self, bits: int, *, stages: int, vectors: str = "outputs", seed: int = 0) -> None:
        super().__init__()
        check_vectors(vectors)
        if not 1 <= stages <= STAGES:
            raise ValueError(f"stages must be in 1..{STAGES}, not {stages}")
        self.bits, self.stages, self.vectors, self.seed = bits, stages, vectors, seed

    def right_inverse(self, weight: Tensor) -> Tensor:
        left = matrix(weight.detach(), self.vectors).double().cpu().numpy()
        codewords, codes = [], []
        # method
        for stage in range(self.stages):
            book = kmeans(left, 2**self.bits, seed=self.seed + stage)
            codewords.append(book.codewords)
            codes.append(book.codes)
            left = left - book.codewords[book.codes]  # R_t = R_{t-1} - its quantized rows
        # end of method
        self.register_buffer("codes", torch.from_numpy(np.stack(codes)).to(weight.device))  # (stages, rows)
        self.shape = weight.shape
        stored = torch.from_numpy(np.stack(codewords)).to(weight)
        if not torch.isfinite(self.forward(stored)).all():
            raise ValueError(f"weights up to {weight.abs().max():g} overflow when codewords are added")
        return stored

    def forward(self, codewords: Tensor) -> Tensor:
        return summed(codewords, self.codes, self.shape, self.vectors)

    def encode(self, codewords: Tensor) -> Encoding:
        symbols = {f"code{stage}": codes for stage, codes in enumerate(self.codes)}
        layout = torch.tensor([float(VECTORS.index(self.vectors))])
        return Encoding(symbols=symbols, tables={"codeword": codewords.flatten(), "layout": layout})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        (by_input,) = encoding.whole("layout", 1)
        if by_input not in (0, 1):
            raise ValueError(f"its layout is {by_input}: accepted is 0 or 1")
        _, columns = sizes(shape, VECTORS[by_input])
        stages = len(encoding.symbols)
        codewords = encoding.tables["codeword"].reshape(stages, -1, columns)
        codes = (encoding.symbols[f"code{stage}"] for stage in range(stages))
        return summed(codewords, codes, shape, VECTORS[by_input])

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        rows = max(sizes(shape, vectors)[0] for vectors in VECTORS)
        return {f"code{stage}": rows for stage in range(STAGES)}, {"codeword": STAGES * shape.numel(), "layout": 1}


def summed(codewords: Tensor, codes: Iterable[Tensor], shape: torch.Size, vectors: str) -> Tensor:
    """Add up the codewords of each row, w_z = sum over stages t of codeword a_t(z), in the order of the stages.

    codewords: (stages, k, columns).
    codes: (stages, rows), whole numbers; an iterator that makes one stage at a time will do.
    shape: of the weight that is returned.
    vectors: "outputs" if a row holds the weights of an output, "inputs" if it holds those of an input.

    >>> codewords = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[10.0, 10.0], [20.0, 20.0]]])
    >>> summed(codewords, torch.tensor([[0, 1], [1, 0]]), torch.Size([2, 2]), "outputs").tolist()
    [[21.0, 22.0], [13.0, 14.0]]
    """
    pairs = zip(codewords, codes, strict=True)
    book, chosen = next(pairs)
    rows = book.index_select(0, chosen)
    for book, chosen in pairs:
        rows = rows + book.index_select(0, chosen)
    return (rows.T if vectors == "inputs" else rows).reshape(shape)


def quantize(
    model: nn.Module,
    *,
    bits: int | Mapping[str, int],
    stages: int,
    vectors: str = "outputs",
    seed: int = 0,
) -> nn.Module:
    """Write each row of a layer as a sum of codewords, one of 2^bits from each stage. In place.

    model: any network.
    bits: of each code, 1 to 16, for all layers or by layer name; layers not named are left alone. A layer with fewer
        rows than codewords gets one codeword per row.
    stages: number of codebooks, 1 to 255.
    vectors: "outputs" if a row holds the weights of an output, "inputs" if it holds those of an input.
    seed: of the clustering.

    Returns the model. Raises ValueError for bits outside 1..16, an unknown layer, unknown ``vectors``, and stages
    outside 1..255 (gong2014vq, section 3.4).

    >>> layer = quantize(nn.Linear(6, 50), bits=2, stages=2)
    >>> len(layer.weight.unique(dim=0)) <= 4 * 4
    True
    """
    check_names(model, bits)

    def form(name: str, _: object) -> ResidualWeight | None:
        chosen = bits_of(bits, name)
        return None if chosen is None else ResidualWeight(chosen, stages=stages, vectors=vectors, seed=seed)

    return compress(model, form)


def compression_rate(rows: int, columns: int, *, bits: int, stages: int) -> float:
    """Compute how many times smaller a layer gets: 32 m n / (T (32 k n + q m)) (gong2014vq, section 3.4).

    rows: m, of the matrix.
    columns: n, of the matrix.
    bits: q, of a code; k = 2^q codewords in a stage.
    stages: T.

    >>> compression_rate(1024, 16, bits=4, stages=2)
    21.333333333333332
    """
    return 32 * rows * columns / (stages * (32 * 2**bits * columns + bits * rows))
