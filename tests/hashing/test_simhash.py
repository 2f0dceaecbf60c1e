"""SimHash: the formulas of the collisions, buckets against a dictionary, probes, zero vectors, refusals."""

import copy
from itertools import pairwise

import pytest
import torch
from given import generator

from lib.hashing import simhash
from lib.hashing.simhash import Tables, collision_probability, retrieval_probability


def vectors(n: int, width: int, *, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(n, width, generator=generator(seed), dtype=dtype)


def at_angles(angles: torch.Tensor, width: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A vector, and one at each of these angles to it."""
    first, second = torch.linalg.qr(vectors(width, 2)).Q.T
    return first[None], angles.cos()[:, None] * first + angles.sin()[:, None] * second


def near(shares: torch.Tensor, expected: torch.Tensor, draws: int) -> bool:
    """Whether shares of so many draws lie within four standard errors of their probabilities."""
    return bool(((shares - expected).abs() <= 4 * (expected * (1 - expected) / draws).sqrt()).all())


def by_dictionaries(database: Tables, queries: torch.Tensor, probes: int, n: int) -> torch.Tensor:
    """The counts, with a Python dictionary for each table and keys that are tuples of bits."""
    counts = torch.zeros(len(queries), n, dtype=torch.long)
    for directions in database.directions:
        buckets: dict[tuple, list[int]] = {}
        for number, x in enumerate(DATABASE[:n]):
            buckets.setdefault(tuple((directions @ x >= 0).tolist()), []).append(number)
        for number, query in enumerate(queries):
            products = directions @ query
            own = (products >= 0).tolist()
            keys = [tuple(own)]
            for bit in products.abs().argsort()[:probes].tolist():
                keys.append(tuple(value != (i == bit) for i, value in enumerate(own)))
            for key in keys:
                counts[number, buckets.get(key, [])] += 1
    return counts


DATABASE = vectors(60, 5)


def test_bits_collide_as_often_as_the_angle_says():
    angles = torch.linspace(0.05, 0.95, 10, dtype=torch.float64) * torch.pi
    query, database = at_angles(angles)
    shares = Tables(database, bits=1, tables=20_000, seed=0).query(query)[0] / 20_000
    assert near(shares, collision_probability(angles), 20_000)


@pytest.mark.parametrize(("bits", "tables"), [(6, 5), (6, 100), (10, 50), (1, 3)])
def test_pairs_are_retrieved_as_often_as_the_formula_says(bits, tables):
    angles, draws = torch.linspace(0.1, 1.5, 6, dtype=torch.float64), 400
    query, database = at_angles(angles, width=8)
    many = Tables(database, bits=bits, tables=tables * draws, seed=1)
    shared = many.keys(query)[:, :, 0] == many.keys(database)[:, :, 0]  # (tables, angles)
    shares = shared.view(draws, tables, len(angles)).any(1).double().mean(0)
    assert near(shares, retrieval_probability(angles, bits=bits, tables=tables), draws)


def test_formulas_are_those_of_the_papers():
    angles = torch.linspace(0, torch.pi, 7, dtype=torch.float64)
    p, of_rest = collision_probability(angles), collision_probability(torch.pi - angles)
    torch.testing.assert_close(p + of_rest, torch.ones(7).double(), rtol=0, atol=1e-15)
    expected = 1 - (1 - p**6) ** 5
    torch.testing.assert_close(retrieval_probability(angles, bits=6, tables=5), expected, rtol=1e-12, atol=1e-15)
    assert retrieval_probability(0.0, bits=64, tables=1) == 1 and retrieval_probability(torch.pi, bits=1, tables=9) == 0
    assert (retrieval_probability(angles, bits=3, tables=4).diff() < 0).all()  # nearer means more often


@pytest.mark.parametrize("probes", [0, 1, 3])
@pytest.mark.parametrize("matches", [1, 50, 2**21])
def test_counts_are_those_of_dictionaries(probes, matches, monkeypatch):
    monkeypatch.setattr(simhash, "MATCHES", matches)
    tables, queries = Tables(DATABASE, bits=3, tables=7, seed=2), vectors(11, 5, seed=3)
    assert torch.equal(tables.query(queries, probes=probes), by_dictionaries(tables, queries, probes, 60))


@pytest.mark.parametrize("bits", [1, 31, 32, 63, 64])
def test_keys_hold_all_bits_up_to_64(bits):
    tables, queries = Tables(DATABASE, bits=bits, tables=2, seed=0), vectors(9, 5, seed=1)
    keys = tables.keys(queries)[:, :, 0]
    signs = torch.einsum("tbd,qd->tqb", tables.directions, queries) >= 0
    for place in range(bits):
        assert torch.equal((keys >> place) & 1 == 1, signs[:, :, place])
    # without the highest bits two keys would often be the same
    assert (Tables(queries, bits=64, tables=5, seed=0).query(queries) > 0).sum() == 9


def test_probes_flip_the_least_certain_bits_first():
    tables, query = Tables(DATABASE, bits=5, tables=4, seed=0), vectors(1, 5, seed=9)
    keys = tables.keys(query, probes=5)[:, 0]
    flipped = (keys[:, 1:] ^ keys[:, :1]).double().log2().long()
    certainty = (tables.directions @ query[0]).abs()
    assert torch.equal(flipped, certainty.argsort(1))
    assert torch.equal((keys[:, 1:] ^ keys[:, :1]).sort(1).values, (2 ** torch.arange(5)).expand(4, 5))  # one each


def test_more_probes_lose_no_candidate():
    tables, queries = Tables(DATABASE, bits=6, tables=3, seed=0), vectors(20, 5, seed=1)
    counts = [tables.query(queries, probes=probes) for probes in range(7)]
    assert all((more >= fewer).all() for fewer, more in pairwise(counts))
    assert (counts[6] > counts[0]).any() and counts[6].max() <= 3  # one bucket of a table holds a vector


def test_a_vector_finds_itself_in_every_table():
    counts = Tables(DATABASE, bits=20, tables=9, seed=0).query(DATABASE)
    assert (counts.diag() == 9).all()


@pytest.mark.parametrize("factor", [3.7, 1e30, 1e-40])
def test_the_length_of_a_vector_changes_nothing(factor):
    database = DATABASE.float()
    tables = Tables(database, bits=8, tables=20, seed=0)
    assert torch.equal(tables.keys(database * torch.tensor(factor)), tables.keys(database)) or factor == 1e-40
    assert (tables.query(database * torch.tensor(factor)).diag() >= 19).all()  # 1e-40 has lost digits


def test_opposite_vectors_share_no_bit():
    tables = Tables(DATABASE, bits=7, tables=3, seed=0)
    assert (tables.keys(DATABASE) ^ tables.keys(-DATABASE) == 2**7 - 1).all()


def test_the_bits_of_a_zero_vector_are_all_one():
    tables = Tables(torch.cat([DATABASE, torch.zeros(2, 5), -torch.zeros(1, 5)]), bits=6, tables=4, seed=0)
    assert (tables.keys(torch.zeros(1, 5)) == 2**6 - 1).all()
    assert (tables.query(torch.zeros(1, 5))[0, -3:] == 4).all()


def test_rebuilt_tables_are_those_of_the_new_database():
    tables, other = Tables(DATABASE, bits=4, tables=6, seed=0), vectors(10, 5, seed=4)
    tables.rebuild(other)
    fresh = Tables(other, bits=4, tables=6, seed=0)
    assert torch.equal(tables.query(DATABASE), fresh.query(DATABASE))


def test_copies_and_loaded_states_answer_alike():
    tables, queries = Tables(DATABASE, bits=4, tables=6, seed=0), vectors(8, 5, seed=4)
    other = Tables(DATABASE.flip(0), bits=4, tables=6, seed=1)
    assert not torch.equal(other.query(queries), tables.query(queries))
    other.load_state_dict(tables.state_dict())
    for same in (other, copy.deepcopy(tables)):
        assert torch.equal(same.query(queries), tables.query(queries))


def test_the_seed_alone_decides_and_other_draws_are_untouched():
    state = torch.get_rng_state()
    a, b, c = (Tables(DATABASE, bits=4, tables=6, seed=seed).query(DATABASE) for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_types_of_float_find_the_same(dtype):
    rounded = DATABASE.to(dtype)
    counts = Tables(rounded, bits=4, tables=50, seed=0).query(rounded)
    expected = Tables(rounded.double(), bits=4, tables=50, seed=0).query(rounded.double())
    assert (counts - expected).abs().max() <= 1  # a product may be rounded to the other side of 0
    assert (counts != expected).double().mean() < 0.01


def test_views_and_single_vectors_are_hashed_as_they_are():
    tables = Tables(DATABASE.T.contiguous().T, bits=4, tables=6, seed=0)
    assert torch.equal(tables.query(DATABASE[::2]), Tables(DATABASE, bits=4, tables=6, seed=0).query(DATABASE)[::2])
    assert Tables(torch.ones(1, 1), bits=2, tables=3, seed=0).query(torch.tensor([[2.0], [-1.0]])).tolist() == [
        [3],
        [0],
    ]


def test_hashing_a_vector_costs_a_product_for_each_bit():
    assert Tables(DATABASE, bits=6, tables=100, seed=0).multiply_adds == 6 * 100 * 5


@pytest.mark.parametrize("bits", [0, -1, 65])
def test_bits_outside_1_to_64_are_refused(bits):
    with pytest.raises(ValueError, match=rf"bits must be in 1..64.*not {bits}"):
        Tables(DATABASE, bits=bits, tables=2, seed=0)


def test_what_cannot_be_hashed_is_refused():
    tables = Tables(DATABASE, bits=3, tables=2, seed=0)
    before = copy.deepcopy(tables.state_dict())
    with pytest.raises(ValueError, match="tables must be 1 or more, not 0"):
        Tables(DATABASE, bits=3, tables=0, seed=0)
    for empty in (torch.zeros(0, 5), torch.zeros(3, 0), torch.zeros(5)):
        with pytest.raises(ValueError, match="the database must be of shape"):
            Tables(empty, bits=3, tables=2, seed=0)
        with pytest.raises(ValueError, match=r"must be of shape \(1 or more, 5\)"):
            tables.query(empty)
        with pytest.raises(ValueError, match=r"must be of shape \(1 or more, 5\)"):
            tables.rebuild(empty)
    with pytest.raises(ValueError, match=r"not \(2, 4\)"):
        tables.query(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"must be floating-point numbers, not torch\.int64"):
        tables.query(torch.ones(2, 5, dtype=torch.long))
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="finite: there is NaN or infinity"):
            tables.rebuild(torch.full((2, 5), bad))
    for probes in (-1, 4):
        with pytest.raises(ValueError, match=rf"probes must be in 0..3.*not {probes}"):
            tables.query(DATABASE, probes=probes)
    assert all(torch.equal(value, before[name]) for name, value in tables.state_dict().items())


def test_probabilities_of_nonsense_are_refused():
    for angle in (-0.1, 3.2, torch.nan):
        with pytest.raises(ValueError, match=r"in 0\.\.pi radians"):
            collision_probability(angle)
    with pytest.raises(ValueError, match="must be 1 or more, not 0 and 5"):
        retrieval_probability(1.0, bits=0, tables=5)
