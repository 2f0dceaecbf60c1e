"""Inner product search: the identities of the transforms, brute force, recall, and where plain SimHash fails."""

import copy
import math

import pytest
import torch
from given import generator

from lib.hashing import inner_product_search as search
from lib.hashing.inner_product_search import Candidates, DistanceTables, Index, exact, recall, scaled

TRANSFORMS = tuple(search.TRANSFORMS)


def vectors(n: int, width: int, *, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    """Vectors of norms that differ, as the rows of a trained weight do."""
    random = generator(seed)
    lengths = torch.rand(n, 1, generator=random, dtype=torch.float64) + 0.1
    return (lengths * torch.randn(n, width, generator=random, dtype=torch.float64)).to(dtype)


DATABASE, QUERIES = vectors(400, 12), vectors(50, 12, seed=1)


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-12)


# --- transforms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "terms"), [(0.83, 3), (0.5, 1), (0.9, 5)])
def test_distances_of_l2_alsh_are_inner_products(norm, terms):
    x, q = scaled(DATABASE, norm), torch.nn.functional.normalize(QUERIES, dim=1)
    made = search.l2_database(DATABASE, norm=norm, terms=terms)
    distances = torch.cdist(
        search.l2_queries(QUERIES, terms=terms), made, compute_mode="donot_use_mm_for_euclid_dist"
    ).square()
    assert close(distances, 1 + terms / 4 - 2 * q @ x.T + x.norm(dim=1) ** 2 ** (terms + 1))


@pytest.mark.parametrize(("norm", "terms"), [(0.75, 2), (0.5, 1), (0.9, 5)])
def test_cosines_of_sign_alsh_are_inner_products(norm, terms):
    x, q = scaled(DATABASE, norm), torch.nn.functional.normalize(QUERIES, dim=1)
    angles = cosines(search.sign_queries(QUERIES, terms=terms), search.sign_database(DATABASE, norm=norm, terms=terms))
    assert close(angles, q @ x.T / (terms / 4 + x.norm(dim=1) ** 2 ** (terms + 1)).sqrt())


def test_cosines_of_simple_lsh_are_the_inner_products():
    x, q = scaled(DATABASE, 1.0), torch.nn.functional.normalize(QUERIES, dim=1)
    made = search.simple_database(DATABASE)
    assert close(made.norm(dim=1), torch.ones(400)) and close(cosines(search.simple_queries(QUERIES), made), q @ x.T)


def test_with_many_terms_the_nearest_is_the_largest_product():
    largest = (QUERIES @ DATABASE.T).argmax(1)
    distances = torch.cdist(search.l2_queries(QUERIES, terms=8), search.l2_database(DATABASE, terms=8))
    angles = cosines(search.sign_queries(QUERIES, terms=8), search.sign_database(DATABASE, terms=8))
    assert torch.equal(distances.argmin(1), largest) and torch.equal(angles.argmax(1), largest)
    assert not torch.equal(cosines(QUERIES, DATABASE).argmax(1), largest)  # they are other vectors without a transform


@pytest.mark.parametrize("factor", [1e-300, 1.0, 1e300])
def test_scaling_keeps_order_and_stands_large_and_small_numbers(factor):
    x = scaled(DATABASE * factor, 0.75)
    assert x.norm(dim=1).max() == pytest.approx(0.75) and close(x, scaled(DATABASE, 0.75))
    assert close(search.simple_queries(QUERIES * factor), search.simple_queries(QUERIES))
    assert scaled(torch.zeros(2, 3), 1.0).tolist() == [[0.0] * 3] * 2


# --- tables -------------------------------------------------------------------------------------------------------


def test_hashes_of_distances_collide_as_often_as_the_formula_says():
    distances = torch.linspace(0.3, 4, 8, dtype=torch.float64)
    database = torch.cat([distances[:, None], torch.zeros(8, 3)], dim=1)
    shares = DistanceTables(database, bits=1, tables=20_000, seed=0).query(torch.zeros(1, 4).double())[0] / 20_000
    ratio = search.WIDTH / distances  # datar et al., for the normal distribution
    p = torch.erf(ratio / math.sqrt(2)) - math.sqrt(2 / math.pi) / ratio * (1 - torch.exp(-(ratio**2) / 2))
    assert ((shares - p).abs() <= 4 * (p * (1 - p) / 20_000).sqrt()).all()


def test_keys_of_distances_are_equal_where_all_hashes_are():
    tables, queries = DistanceTables(DATABASE, bits=3, tables=9, seed=0), vectors(7, 12, seed=5)
    hashes = [
        ((torch.einsum("tbd,nd->tnb", tables.directions, x) + tables.offsets[:, None]) / search.WIDTH).floor()
        for x in (queries, DATABASE)
    ]
    equal = (hashes[0][:, :, None] == hashes[1][:, None]).all(3).sum(0)
    assert torch.equal(tables.query(queries), equal) and equal.max() > 0


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_candidates_come_by_the_number_of_shared_buckets(transform):
    candidates = Candidates(DATABASE, transform=transform, bits=3, tables=10, seed=0)
    counts, numbers = candidates.counts(QUERIES), candidates.retrieve(QUERIES, 400)
    assert (counts.gather(1, numbers).diff(dim=1) <= 0).all()
    assert torch.equal(numbers.sort(1).values, torch.arange(400).expand(50, 400))
    assert torch.equal(candidates.retrieve(QUERIES, 30), numbers[:, :30])  # what is retrieved first does not change


# --- search -------------------------------------------------------------------------------------------------------


def test_plain_simhash_takes_the_short_vector_and_simple_lsh_the_large_product():
    database = torch.tensor([[0.2, 0.0], [3.0, 4.0], [-1.0, 0.5], [0.0, -2.0]])  # the first one is short and aligned
    query = torch.tensor([[1.0, 0.0]])
    first = {
        transform: Candidates(database, transform=transform, bits=1, tables=2000, seed=0).retrieve(query, 1).item()
        for transform in TRANSFORMS
    }
    assert first == {"simhash": 0, "l2-alsh": 1, "sign-alsh": 1, "simple-lsh": 1}
    assert exact(database, query, 1).numbers.item() == 1


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_search_of_the_whole_database_is_exact(transform):
    found = Index(DATABASE, transform=transform, bits=4, tables=3, seed=0).search(QUERIES, 10, fraction=1)
    truth = exact(DATABASE, QUERIES, 10)
    assert torch.equal(found.numbers, truth.numbers) and close(found.products, truth.products)
    assert recall(found, truth) == 1


def test_products_are_those_of_the_vectors_found(monkeypatch):
    index = Index(DATABASE, bits=4, tables=9, seed=0)
    found = index.search(QUERIES, 5, fraction=0.1)
    assert close(found.products, (QUERIES @ DATABASE.T).gather(1, found.numbers))
    assert (found.products.diff(dim=1) <= 0).all()
    monkeypatch.setattr(search, "PRODUCTS", 1)  # one query at a time
    assert torch.equal(index.search(QUERIES, 5, fraction=0.1).numbers, found.numbers)


def test_simple_lsh_finds_more_than_chance_and_plain_simhash():
    truth = exact(DATABASE, QUERIES, 10)
    shares = {
        transform: recall(
            Index(DATABASE, transform=transform, bits=1, tables=256, seed=0).search(QUERIES, 10, fraction=0.2), truth
        )
        for transform in TRANSFORMS
    }
    assert shares["simple-lsh"] >= 0.2 + 0.2 and shares["simple-lsh"] > shares["simhash"]
    assert min(shares.values()) > 0.2


def test_recall_never_falls_as_more_is_retrieved():
    index, truth = Index(DATABASE, bits=4, tables=20, seed=0), exact(DATABASE, QUERIES, 10)
    shares = [recall(index.search(QUERIES, 10, fraction=f), truth) for f in (0.03, 0.1, 0.3, 0.6, 1)]
    assert shares == sorted(shares) and shares[0] < 0.9 and shares[-1] == 1


def test_the_true_answers_are_those_of_sorting():
    truth = exact(DATABASE, QUERIES, 7)
    assert torch.equal(truth.numbers, (QUERIES @ DATABASE.T).argsort(1, descending=True)[:, :7])


def test_recall_counts_what_two_answers_share():
    truth = exact(DATABASE, QUERIES, 6)
    other = search.Found(truth.numbers.roll(1, dims=0), truth.products)
    rows = zip(other.numbers.tolist(), truth.numbers.tolist(), strict=True)
    assert recall(other, truth) == pytest.approx(sum(len(set(a) & set(b)) for a, b in rows) / 300)


def test_faiss_agrees_with_the_true_answers():
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(12)
    index.add(DATABASE.float().numpy())
    products, numbers = index.search(QUERIES.float().numpy(), 10)
    truth = exact(DATABASE.float(), QUERIES.float(), 10)
    torch.testing.assert_close(truth.products, torch.from_numpy(products))
    assert (truth.numbers == torch.from_numpy(numbers)).double().mean() > 0.99  # equal but for rounding
    found = Index(DATABASE.float(), bits=1, tables=256, seed=0).search(QUERIES.float(), 10, fraction=0.5)
    assert recall(found, search.Found(torch.from_numpy(numbers), truth.products)) > 0.9


# --- state, types, refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_rebuilt_index_is_that_of_the_new_database(transform):
    index = Index(DATABASE, transform=transform, bits=3, tables=8, seed=0)
    longer = 5 * vectors(400, 12, seed=7)  # their largest norm is another one
    index.rebuild(longer)
    fresh = Index(longer, transform=transform, bits=3, tables=8, seed=0)
    assert torch.equal(index.counts(QUERIES), fresh.counts(QUERIES))
    assert torch.equal(index.search(QUERIES, 3, fraction=0.1).products, fresh.search(QUERIES, 3, fraction=0.1).products)


def test_copies_and_loaded_states_search_alike():
    index, other = (Index(DATABASE, transform="l2-alsh", bits=2, tables=8, seed=seed) for seed in (0, 1))
    expected = index.search(QUERIES, 5, fraction=0.1).numbers
    assert not torch.equal(other.search(QUERIES, 5, fraction=0.1).numbers, expected)
    other.load_state_dict(index.state_dict())
    for same in (other, copy.deepcopy(index)):
        assert torch.equal(same.search(QUERIES, 5, fraction=0.1).numbers, expected)


def test_the_index_keeps_its_own_database():
    database = DATABASE.clone()
    index = Index(database, bits=2, tables=8, seed=0)
    before = index.search(QUERIES, 5, fraction=1).products
    database.zero_()
    assert torch.equal(index.search(QUERIES, 5, fraction=1).products, before)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_types_of_float_find_almost_the_same(transform, dtype):
    database, queries = DATABASE.to(dtype), QUERIES.to(dtype)
    index = Index(database, transform=transform, bits=1, tables=64, seed=0)
    wide = Index(database.double(), transform=transform, bits=1, tables=64, seed=0)
    found = index.search(queries, 10, fraction=0.2)
    assert found.products.dtype == dtype and recall(found, wide.search(queries.double(), 10, fraction=0.2)) > 0.97


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_zeros_and_single_vectors_have_an_answer(transform):
    zeros = Index(torch.zeros(3, 2), transform=transform, bits=2, tables=3, seed=0)
    assert zeros.search(torch.zeros(1, 2), 3, fraction=1).products.tolist() == [[0, 0, 0]]
    one = Index(torch.full((1, 1), -2.0), transform=transform, bits=2, tables=3, seed=0)
    assert one.search(torch.full((1, 1), 3.0), 1, fraction=0.01).products.item() == -6


def test_searches_that_cannot_be_answered_are_refused():
    index = Index(DATABASE, bits=3, tables=4, seed=0)
    with pytest.raises(ValueError, match=r"transform must be one of simhash, l2-alsh, .* not 'alsh'"):
        Index(DATABASE, transform="alsh", bits=3, tables=4, seed=0)
    with pytest.raises(ValueError, match=r"bits must be in 1..64"):
        Index(DATABASE, bits=65, tables=4, seed=0)
    for fraction in (0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\]"):
            index.search(QUERIES, 1, fraction=fraction)
    with pytest.raises(ValueError, match=r"retrieves 20: count must be in 1..20, not 21"):
        index.search(QUERIES, 21, fraction=0.05)
    for most in (0, 401):
        with pytest.raises(ValueError, match=rf"most must be in 1..400, not {most}"):
            index.retrieve(QUERIES, most)
        with pytest.raises(ValueError, match=rf"count must be in 1..400.* not {most}"):
            exact(DATABASE, QUERIES, most)
    with pytest.raises(ValueError, match="must have 400 vectors as before, not 3"):
        index.rebuild(DATABASE[:3])
    with pytest.raises(ValueError, match="found is of 50 queries and truth of 3"):
        recall(exact(DATABASE, QUERIES, 2), exact(DATABASE, QUERIES[:3], 2))


def test_vectors_and_numbers_out_of_range_are_refused():
    index = Index(DATABASE, transform="l2-alsh", bits=3, tables=4, seed=0)
    for bad, says in (
        (QUERIES[:0], "shape"),
        (QUERIES[:, :3], "shape"),
        (QUERIES.long(), "floating-point"),
        (QUERIES / 0, "NaN or infinity"),
    ):
        for call in (index.counts, lambda x: index.search(x, 1, fraction=1), lambda x: exact(DATABASE, x, 1)):
            with pytest.raises(ValueError, match=f"the queries must be .*{says}|the queries must be finite: .*{says}"):
                call(bad)
    with pytest.raises(ValueError, match=r"probes must be 0 with hashes of distances, .*not 1"):
        index.counts(QUERIES, probes=1)
    for function in (search.l2_database, search.sign_database):
        with pytest.raises(ValueError, match=r"norm must be in \(0, 1\), not 1"):
            function(DATABASE, norm=1.0)
        with pytest.raises(ValueError, match="terms must be 1 or more, not 0"):
            function(DATABASE, terms=0)
    for function in (search.l2_queries, search.sign_queries):
        with pytest.raises(ValueError, match="terms must be 1 or more, not 0"):
            function(QUERIES, terms=0)
    with pytest.raises(ValueError, match="norm must be positive"):
        scaled(DATABASE, 0.0)
