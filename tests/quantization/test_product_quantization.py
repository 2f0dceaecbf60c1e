"""Product quantization: k-means of vectors against brute force and peers, codebooks, the file, the formula."""

from itertools import product

import given
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from lib import models, storage
from lib.quantization.optimal_kmeans import optimal
from lib.quantization.product_quantization import ProductWeight, compression_rate, kmeans, matrix, quantize, sizes
from lib.quantization.scalar_kmeans import share


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def weight_of(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lost(vectors, codes):
    return sum(((vectors[codes == j] - vectors[codes == j].mean(0)) ** 2).sum() for j in np.unique(codes))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [2, 3])
def test_kmeans_finds_what_trying_all_partitions_finds(seed, k):
    vectors = normal(7, 2, seed=seed)
    brute = min(lost(vectors, np.array(codes)) for codes in product(range(k), repeat=7))
    book = kmeans(vectors, k, seed=0, restarts=60)
    assert book.squared_error == pytest.approx(brute, rel=1e-9)


@pytest.mark.parametrize(("n", "d", "k"), [(300, 2, 16), (200, 60, 5), (50, 3, 50), (1, 4, 3)])
def test_a_book_holds_cluster_means_and_each_vector_has_the_nearest(n, d, k):
    vectors = normal(n, d)
    book = kmeans(vectors, k, seed=1, iterations=500)
    assert book.codewords.shape == (min(n, k), d) and book.codes.shape == (n,)
    distances = ((vectors[:, None] - book.codewords) ** 2).sum(2)
    np.testing.assert_array_equal(distances.argmin(1), book.codes)
    assert book.squared_error == pytest.approx(distances.min(1).sum(), rel=1e-9, abs=1e-20)
    for j in np.unique(book.codes):
        np.testing.assert_allclose(book.codewords[j], vectors[book.codes == j].mean(0), atol=1e-12)


def test_more_iterations_and_more_restarts_never_lose_more():
    vectors = normal(500, 4)
    by_iterations = [kmeans(vectors, 16, seed=0, iterations=n, restarts=1).squared_error for n in (1, 2, 5, 25, 100)]
    by_restarts = [kmeans(vectors, 16, seed=0, restarts=n).squared_error for n in (1, 2, 3, 8)]
    assert by_iterations == sorted(by_iterations, reverse=True)
    assert by_restarts == sorted(by_restarts, reverse=True)


def test_a_second_implementation_agrees():
    vectors = normal(400, 3)
    book = kmeans(vectors, 8, seed=0, iterations=500)
    again = KMeans(8, init=book.codewords, n_init=1, tol=0).fit(vectors)
    assert again.inertia_ == pytest.approx(book.squared_error, rel=1e-9)  # where ours stops, scikit-learn's stays
    best = KMeans(8, n_init=10, random_state=0).fit(vectors).inertia_
    assert book.squared_error <= 1.05 * best


def test_faiss_is_no_better_by_more_than_a_few_percent():
    faiss = pytest.importorskip("faiss")
    vectors = normal(600, 4).astype(np.float32)
    peer = faiss.Kmeans(4, 16, niter=25, nredo=3, seed=1)
    peer.train(vectors)
    squared = peer.index.search(vectors, 1)[0].sum()
    assert 0.95 * squared <= kmeans(vectors, 16, seed=0).squared_error <= 1.05 * squared
    quantizer = faiss.ProductQuantizer(8, 4, 4)  # 8 columns, 4 segments, 4 bits
    rows = normal(600, 8).astype(np.float32)
    quantizer.train(rows)
    squared = ((quantizer.decode(quantizer.compute_codes(rows)) - rows) ** 2).sum()
    form = ProductWeight(4, length=2)
    ours = (form(form.right_inverse(torch.from_numpy(rows))).numpy() - rows) ** 2
    assert 0.95 * squared <= ours.sum() <= 1.05 * squared


def test_vectors_of_one_number_are_clustered_exactly():
    values = normal(200, 1)
    assert kmeans(values, 7, seed=0).squared_error == optimal(values[:, 0], 7).squared_error
    assert kmeans(np.array([[1.0], [2.0], [1.0]]), 3, seed=0).codewords.tolist() == [[1], [2], [2]]


def test_equal_vectors_lose_nothing():
    book = kmeans(np.ones((9, 4)), 3, seed=0)
    assert book.squared_error == 0 and book.codewords.shape == (3, 4) and np.isfinite(book.codewords).all()


@pytest.mark.parametrize("vectors", ["outputs", "inputs"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(12, 8), (8, 1, 4), (8, 2, 2, 4), (1, 1), (4, 1, 1, 1)])
@pytest.mark.parametrize(("bits", "length"), [(1, 1), (2, 2), (3, 4), (16, 100)])
def test_each_piece_is_its_codeword_and_the_file_says_it(shape, bits, length, shared, vectors):
    weight = weight_of(*shape)
    form = ProductWeight(bits, length=length, vectors=vectors, shared=shared)
    stored = form.right_inverse(weight)
    weights = form(stored)
    assert weights.shape == weight.shape
    rows = matrix(weight, vectors).double().numpy()
    assert rows.shape == sizes(weight.shape, vectors)
    pieces = np.split(rows, range(length, rows.shape[1], length), axis=1)
    for group in [np.concatenate(pieces)] if shared else pieces:
        book = kmeans(group, 2**bits, seed=0)
        expected = book.codewords[book.codes].astype(np.float32)
        if shared:
            expected = np.concatenate(np.split(expected, len(pieces)), axis=1)
            np.testing.assert_array_equal(matrix(weights, vectors).numpy(), expected)
        else:
            at = [piece is group for piece in pieces].index(True) * length
            np.testing.assert_array_equal(matrix(weights, vectors)[:, at : at + group.shape[1]].numpy(), expected)
    assert torch.equal(ProductWeight.decode(form.encode(stored), weight.shape), weights)


def test_the_last_segment_may_be_shorter():
    weight = weight_of(30, 7)
    form = ProductWeight(3, length=3)
    stored = form.right_inverse(weight)
    assert form.codes.shape == (30, 3) and len(stored) == 8 * 7
    book = kmeans(weight[:, 6:].double().numpy(), 8, seed=0)
    np.testing.assert_array_equal(form(stored)[:, 6:].numpy(), book.codewords[book.codes].astype(np.float32))
    assert torch.equal(ProductWeight.decode(form.encode(stored), weight.shape), form(stored))


@pytest.mark.parametrize("vectors", ["outputs", "inputs"])
def test_as_many_codewords_as_rows_lose_nothing(vectors):
    model, dense = models.lenet5(), models.lenet5()
    quantize(model, bits={"conv2": 9, "fc2": 9}, length=4, vectors=vectors)  # 2^9 >= 500 rows
    assert torch.equal(model.conv2.weight, dense.conv2.weight)
    assert torch.equal(model.fc2.weight, dense.fc2.weight)


def test_one_segment_is_quantization_of_whole_rows():
    weight = weight_of(40, 6)
    book = kmeans(weight.double().numpy(), 4, seed=0)
    form = ProductWeight(2, length=6)
    np.testing.assert_array_equal(
        form(form.right_inverse(weight)).numpy(), book.codewords[book.codes].astype(np.float32)
    )


@pytest.mark.parametrize("vectors", ["outputs", "inputs"])
def test_segments_of_one_column_that_share_a_codebook_are_scalar_kmeans(vectors):
    ours = quantize(models.lenet_300_100(), bits={"fc2": 3, "fc3": 2}, length=1, vectors=vectors, shared=True)
    scalar = share(models.lenet_300_100(), bits={"fc2": 3, "fc3": 2})
    assert torch.equal(ours.fc2.weight, scalar.fc2.weight) and torch.equal(ours.fc3.weight, scalar.fc3.weight)


def test_more_codewords_lose_less():
    weight = weight_of(300, 24)
    losses = []
    for bits in range(1, 7):
        form = ProductWeight(bits, length=4)
        losses.append((form(form.right_inverse(weight)) - weight).square().sum().item())
    assert losses == sorted(losses, reverse=True)


def test_a_product_with_the_weight_is_a_sum_of_looked_up_products():
    weight, x = weight_of(20, 12), weight_of(5, 12, seed=1)
    form = ProductWeight(2, length=4)
    codewords = form.right_inverse(weight)
    books = codewords.reshape(3, 4, 4)  # segments, codewords, columns
    tables = torch.einsum("nst,skt->snk", x.reshape(5, 3, 4), books)
    outputs = sum(tables[segment][:, form.codes[:, segment]] for segment in range(3))
    torch.testing.assert_close(outputs, x @ form(codewords).T, rtol=1e-5, atol=1e-5)


def test_gradient_of_a_codeword_is_the_sum_over_its_pieces():
    weight = weight_of(20, 6)
    form = ProductWeight(2, length=2)
    stored = form.right_inverse(weight).requires_grad_()
    dense = weight_of(20, 6, seed=1)
    (form(stored) * dense).sum().backward()
    expected = torch.zeros(3, 4, 2)
    for row, segment in np.ndindex(20, 3):
        expected[segment, form.codes[row, segment]] += dense[row, 2 * segment : 2 * segment + 2]
    torch.testing.assert_close(stored.grad, expected.flatten(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"length": 4}, {"length": 3, "vectors": "inputs"}, {"length": 1, "shared": True}])
def test_a_network_of_torchvision_is_written_and_read_back(tmp_path, options):
    assert given.reads_back_alike(lambda net, names: quantize(net, bits=dict.fromkeys(names, 3), **options), tmp_path)


@pytest.mark.parametrize("vectors", ["outputs", "inputs"])
def test_the_file_is_as_large_as_the_formula_says(vectors):
    layer = nn.Linear(96, 64, bias=False)
    quantize(layer, bits=4, length=4, vectors=vectors)
    size = len(storage.dumps(layer, coder="fixed"))
    rows, columns = sizes(layer.weight.shape, vectors)
    assert 0 <= size - 4 * 96 * 64 / compression_rate(rows, columns, bits=4, length=4) < 100


def test_the_rate_is_the_formula_and_too_large_a_codebook_loses():
    assert compression_rate(300, 784, bits=4, length=2) == 32 * 300 * 784 / (32 * 16 * 784 + 4 * 300 * 392)
    assert compression_rate(10, 7, bits=1, length=3) == 32 * 70 / (32 * 2 * 7 + 10 * 3)
    layer = nn.Linear(784, 200, bias=False)
    dense = 4 * layer.weight.numel()
    assert len(storage.dumps(quantize(layer, bits=8, length=4), coder="fixed")) > dense


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bits": 0, "length": 2}, "1..16, not 0"),
        ({"bits": {"fc1": 17}, "length": 2}, "1..16, not 17"),
        ({"bits": {"fc9": 2}, "length": 2}, "has no layer 'fc9' with a weight: it has fc1, fc2, fc3"),
        ({"bits": 2, "length": 0}, "length must be 1 or more, not 0"),
        ({"bits": 2, "length": 2, "vectors": "rows"}, "one of outputs, inputs, not 'rows'"),
        (
            {"bits": 2, "length": 8, "shared": True},
            r"segments of 8 do not divide the 300 columns of layer 'fc2': one shared codebook needs 1, 2, 3, 4",
        ),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(options, says):
    model = models.lenet_300_100()
    with pytest.raises(ValueError, match=says):
        quantize(model, **options)
    assert not any(hasattr(layer, "parametrizations") for layer in model)


@pytest.mark.parametrize(
    ("vectors", "k", "options", "says"),
    [
        (np.zeros((0, 2)), 1, {}, r"shape \(0, 2\)"),
        (np.zeros(3), 1, {}, r"shape \(3,\)"),
        (np.full((3, 2), np.nan), 1, {}, "finite"),
        (np.zeros((3, 2)), 0, {}, "must be 1 or more, not 0, 25 and 3"),
        (np.zeros((3, 2)), 2, {"restarts": 0}, "must be 1 or more, not 2, 25 and 0"),
    ],
)
def test_vectors_that_cannot_be_clustered_are_refused(vectors, k, options, says):
    with pytest.raises(ValueError, match=says):
        kmeans(vectors, k, seed=0, **options)
