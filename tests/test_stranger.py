"""The page on the file format: a second reader that follows it, its examples, and each form that there is."""

import hashlib
import io
import json
import re
import struct
import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import given
import given_files
import numpy as np
import pytest
import stranger
import torch
from given_files import FORMS
from torch import nn

from lib import models, storage, weights
from lib.coding import coders, fields
from lib.quantization.shared import whole_steps
from lib.weights import CompressedWeight

PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "file_format.md").read_text("utf-8")
COMMON = ["plain", "pruned", "barely pruned", "shared", "pruned and shared", "shared by all layers", "steps"]


def block(language: str, begin: str) -> str:
    """The block of code on the page whose first line begins so."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if text.startswith(begin)]
    assert len(found) == 1, f"{len(found)} blocks of {language} begin with {begin!r}"
    return found[0]


def architecture(model: nn.Module) -> list:
    """By the page's own lines: name, shape and type of each tensor, of a model without compressed weights."""
    names: dict = {}
    exec(block("python", "def architecture"), names)
    return names["architecture"](model)


def assert_same(found: dict, expected: list[torch.Tensor]) -> None:
    """Bit for bit: 0 and -0 differ."""
    assert len(found) == len(expected)
    for (name, values), tensor in zip(found.items(), expected, strict=True):
        read = torch.tensor(values, dtype=tensor.dtype)
        assert torch.equal(read.view(torch.uint8), tensor.flatten().view(torch.uint8)), name


# -- The second reader -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coder", storage.CODERS)
@pytest.mark.parametrize("form", COMMON)
def test_a_stranger_reads_the_commonest_forms_bit_for_bit(form, coder):
    content = storage.dumps(FORMS[form](given_files.small()), coder=coder)
    plain = given_files.small(1)
    assert_same(stranger.decode(content, architecture(plain)), storage.loads(content, plain))


class LeNetLike(nn.Module):
    """Matrices like those of the LeNets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2, self.one = nn.Linear(784, 30), nn.Linear(300, 100), nn.Linear(500, 1, bias=False)


def prune_like_lenet(model: LeNetLike) -> None:
    """Leave whole kernels, disks in the images that a unit sees, and the columns of the inputs that are used."""
    draw = torch.Generator().manual_seed(0)
    model.conv2.weight.data *= torch.rand(50, 20, 1, 1, generator=draw) < 0.2
    y, x = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    for row, (up, left) in zip(model.fc1.weight.data, torch.randint(28, (30, 2), generator=draw), strict=True):
        row *= ((y - up) ** 2 + (x - left) ** 2 < 30).flatten()
    model.fc2.weight.data *= torch.rand(300, generator=draw) < 0.2
    model.fc2.weight.data[40:60] = 0
    model.one.weight.data *= torch.rand(500, generator=draw) < 0.02


def test_a_stranger_reads_the_context_code_of_lenets():
    model, plain = given.seeded(LeNetLike, 0), given.seeded(LeNetLike, 1)
    prune_like_lenet(model)
    content = storage.dumps(whole_steps.to_steps(model, step=0.7), coder="context")
    held = given_files.apart(content, plain)["tensors"]
    streams = [stream for tensor in held if tensor["form"] == "GridWeight" for _, stream in tensor["streams"]]
    coded = [(stream["count"], stream["parameter"]) for stream in streams if stream["coder"] == fields.CONTEXT]
    assert dict(coded).keys() >= {25_000, 23_520, 30_000} and len({width for _, width in coded}) > 1
    assert_same(stranger.decode(content, architecture(plain)), storage.loads(content, plain))


@pytest.mark.parametrize("coder", storage.CODERS)
@pytest.mark.parametrize(("count", "most"), [(0, 1), (1, 500), (65, 3), (3000, 510), (5000, 4), (66_000, 60_000)])
def test_a_stranger_reads_streams_of_each_code(count, most, coder):
    symbols = np.minimum(np.random.default_rng(count).zipf(1.4, count) - 1, most)
    content = fields.stream(symbols, coder, torch.Size([5, count // 5]) if count == 3000 else None)
    assert stranger.stream(io.BytesIO(content), [5, count // 5]) == symbols.tolist()


@pytest.mark.parametrize(("count", "most"), [(65_535, 300), (65_536, 300), (70_000, 1), (70_000, 50_000)])
def test_a_stranger_reads_range_codes_around_the_finer_shares(count, most):
    symbols = np.minimum(np.random.default_rng(count).zipf(1.4, count) - 1, most)
    shares = coders.shares(np.bincount(symbols))
    assert stranger.range_code(coders.range_code(symbols, shares), count, shares.tolist()) == symbols.tolist()


@pytest.mark.parametrize("symbols", [[0, 1, 510] * 5, [1] * 7 + [2] * 7, [2, 0, 0, 0, 0, 0, 1], [0] * 50 + [255]])
@pytest.mark.parametrize("width", range(1, 8))
def test_a_stranger_reads_the_context_code_of_extremes(symbols, width):
    symbols = (symbols * width)[: len(symbols) // width * width] * 3
    content = fields.context.context_code(np.array(symbols), 3, width)
    assert stranger.context_code(content, len(symbols), 3, width) == symbols


def test_special_values_and_other_types_are_read():
    model = nn.Module()
    special = [0.0, -0.0, float("inf"), -1.5, 1e-45]
    for kind in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"):
        values = special if "float" in kind else [0, 1, 127, 3, 100]
        model.register_buffer(f"of_{kind}", torch.tensor(values, dtype=getattr(torch, kind)))
    model.of_int64 -= 2**62
    content = storage.dumps(model)
    assert_same(stranger.decode(content, architecture(model)), storage.loads(content, model))


def test_every_damaged_byte_is_found():
    content = storage.dumps(FORMS["steps"](given_files.small()))
    listed = architecture(given_files.small())
    for at in range(len(content)):
        with pytest.raises(ValueError, match=r"checksum does not fit|no model file of this version"):
            stranger.decode(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :], listed)
    with pytest.raises(ValueError, match="checksum"):
        stranger.decode(content[:-1], listed)


def test_another_architecture_is_refused_by_the_stranger():
    content = storage.dumps(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="another architecture"):
        stranger.decode(content, architecture(nn.Linear(2, 3)))


def test_the_stranger_is_a_short_program_without_packages(tmp_path):
    source = Path(stranger.__file__)
    assert len(source.read_text().splitlines()) <= 200
    model = nn.Linear(3, 2)
    storage.save(model, tmp_path / "model.slim")
    (tmp_path / "architecture.json").write_text(json.dumps(architecture(model)))
    command = [sys.executable, "-I", "-S", source, tmp_path / "model.slim", tmp_path / "architecture.json"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert json.loads(said) == {"bias": model.bias.tolist(), "weight": model.weight.flatten().tolist()}


# -- The other forms, computed as the page says ------------------------------------------------------------------------


def matrix_rows(pieces: np.ndarray, shape: torch.Size, by_input: float) -> np.ndarray:
    return (pieces.T if by_input else pieces).reshape(shape)


def matrix_shape(shape: torch.Size, by_input: float) -> tuple[int, int]:
    rest = shape[1:].numel()
    return (rest, shape[0]) if by_input else (shape[0], rest)


def product(streams, tables, shape):
    length, by_input, shared = map(int, tables["layout"])
    rows, columns = matrix_shape(shape, by_input)
    starts = range(0, columns, length)
    codes, codewords = streams["code"].reshape(rows, len(starts)), tables["codeword"]
    count = len(codewords) // (length if shared else columns)
    pieces = []
    for segment, start in enumerate(starts):
        wide = min(length, columns - start)
        book = codewords[0 if shared else count * start :][: count * wide].reshape(count, wide)
        pieces.append(book[codes[:, segment]])
    return matrix_rows(np.concatenate(pieces, axis=1), shape, by_input)


def residual(streams, tables, shape):
    (by_input,) = tables["layout"]
    _, columns = matrix_shape(shape, by_input)
    books = tables["codeword"].reshape(len(streams), -1, columns)
    return matrix_rows(sum(book[streams[f"code{stage}"]] for stage, book in enumerate(books)), shape, by_input)


def each_first(table: np.ndarray, shape: torch.Size) -> np.ndarray:
    return table.reshape(-1, *[1] * (len(shape) - 1))


def signs(streams, tables, shape):
    sign, scale = np.where(streams["sign"] == 1, np.float32(1), np.float32(-1)).reshape(shape), tables["scale"]
    if "transposed" in tables and len(scale) > 1:
        groups = int(tables["transposed"][0])
        u, v = np.indices(shape)[:2]
        return sign * scale[u * groups // shape[0] * shape[1] + v]
    return sign * each_first(scale, shape) if len(scale) else sign


def binary_connect(streams, tables, shape):
    return tables["real"] if "real" in tables else 2 * streams["bit"] - np.float32(1)


def sums_of_signs(streams, tables, shape):
    (kind, symbols), (scope, scales) = *streams.items(), *tables.items()
    symbols, scales = symbols.reshape(shape), scales.reshape(-1, shape[0] if scope == "filter" else 1)
    total = np.zeros(shape, dtype=np.float32)
    for m, scale in enumerate(scales):
        positive = symbols >> m & 1 if kind == "greedy" else symbols >= len(scales) - m
        total = total + each_first(scale, shape) * np.where(positive, np.float32(1), np.float32(-1))
    return total


def split_mix(k: int, seed: int) -> int:
    names = {"s": seed, "k": k}
    for line in re.search(r"  z = s \+.*?h\(k, s\) = .*?\n", PAGE, re.DOTALL)[0].splitlines():
        to, formula = line.strip().split(" = ")
        names[to] = eval(formula, {}, names) % 2**64
    return names["h(k, s)"]


def hashed(streams, tables, shape):
    signed, *words = map(int, tables["hash"])
    seed, values = sum(word << 16 * place for place, word in enumerate(words)), tables["value"]
    other = split_mix(0x5349474E, seed) >> 1
    minus = [signed and split_mix(i, other) >> 63 for i in range(shape.numel())]
    return np.array([-values[split_mix(i, seed) % len(values)] if m else values[split_mix(i, seed) % len(values)]
                     for i, m in enumerate(minus)])  # fmt: skip


def edges(streams, tables, shape):
    seed, values = sum(int(word) << 16 * place for place, word in enumerate(tables["hash"][1:])), tables["value"]
    dense = np.zeros(shape.numel(), dtype=np.float32)
    dense[sorted(sorted(range(len(dense)), key=lambda i: split_mix(i, seed))[: len(values)])] = values
    return dense


def fixed_point(streams, tables, shape):
    integer, fraction = map(int, tables["bits"])
    code = streams["code"] if integer + fraction <= 16 else streams["low"] + 65536 * streams["high"]
    return (code - 2 ** (integer + fraction - 1)) * 2.0**-fraction


def short_floats(streams, tables, shape):
    e, m = map(int, tables["widths"])
    field, significand, b = streams["sign and exponent"], streams["significand"], 2 ** (e - 1) - 1
    exponent = field % 2**e
    normal = (2**m + significand) * 2.0 ** (exponent - b - m)
    return np.where(exponent == 0, significand * 2.0 ** (1 - b - m), normal) * np.where(field >> e, -1, 1)


def affine(streams, tables, shape):
    axis = int(tables.get("axis", [0])[0])
    wide = [-1 if d == axis else 1 for d in range(len(shape))]
    return (streams["code"].reshape(shape) - tables["zero"].reshape(wide)) * tables["scale"].reshape(wide)


FORMULAS = {
    "AffineWeight": affine,
    "ProductWeight": product,
    "ResidualWeight": residual,
    "SignWeight": signs,
    "BinaryConnectWeight": binary_connect,
    "BinaryWeight": lambda s, t, shape: each_first(t["alpha"], shape) * (2 * s["bit"] - 1).reshape(shape),
    "AbcWeight": sums_of_signs,
    "TernaryStates": lambda s, t, shape: s["state"] * t["step"] - 1,
    "HashedWeight": hashed,
    "RemainingEdges": edges,
    "FixedPointWeight": fixed_point,
    "FloatWeight": short_floats,
}


@pytest.mark.parametrize("form", [form for form in FORMS if form not in COMMON])
def test_the_formula_of_each_other_form_gives_the_weight(form):
    content = storage.dumps(FORMS[form](given_files.small()).eval())
    plain = given_files.small(1)
    found, computed = stranger.decode(content, architecture(plain)), 0
    for (name, held), tensor in zip(found.items(), storage.loads(content, plain), strict=True):
        if isinstance(held, dict):
            streams = {key: np.array(symbols, dtype=np.int32) for key, symbols in held["streams"].items()}
            tables = {key: np.array(values, dtype=np.float32) for key, values in held["tables"].items()}
            value = FORMULAS[held["form"]](streams, tables, tensor.shape).astype(np.float32).ravel()
            assert value.tobytes() == tensor.numpy().tobytes(), name
            computed += 1
    assert computed >= 4


# -- The page ----------------------------------------------------------------------------------------------------------


def rows() -> dict[str, list[str]]:
    """Form -> what its row of the page names: streams and tables."""
    found = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", PAGE.split("\n## The forms\n")[1], re.MULTILINE)
    return {form: re.findall(r"`([\w ]+)`", streams + tables) for form, streams, tables in found}


def forms_of_lib() -> dict[str, type[CompressedWeight]]:
    with pytest.raises(ValueError, match="no technique stores weights as") as refusal:
        weights.form_named("Nothing")
    known = {name: weights.form_named(name) for name in str(refusal.value).partition("known are ")[2].split(", ")}
    return {
        name: form
        for name, form in known.items()
        if form.__module__.startswith("lib.") and form.most is not CompressedWeight.most
    }


def test_the_page_names_every_form_with_its_streams_and_tables():
    held = {}
    for name, form in forms_of_lib().items():
        streams, tables = form.most(torch.Size([4, 3]))
        held[name] = sorted({re.sub(r"^code\d+$", "code0", key) for key in streams} | set(tables))
    assert held and {form: sorted({*names} - {"code1"}) for form, names in rows().items()} == held


def test_the_forms_are_all_computed_in_these_tests():
    common = {"PrunedWeight", "SharedWeight", "PrunedSharedWeight", "JointlySharedWeight", "GridWeight"}
    assert FORMULAS.keys() | common == forms_of_lib().keys()


def test_the_annotated_file_is_what_is_written():
    layer = nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[0.5, 0.0, -0.5], [0.0, 1.0, 0.0]])
    layer.bias.data = torch.tensor([0.125, -0.25])
    lines = re.findall(r"^ *(\d+)  ((?:[0-9a-f]{2} )+) +\S", block("text", "at  bytes"), re.MULTILINE)
    parts = [bytes.fromhex(part) for _, part in lines]
    assert b"".join(parts) == storage.dumps(whole_steps.to_steps(layer))
    assert [int(at) for at, _ in lines] == [0, *accumulate(map(len, parts))][:-1]


def symbols_of(said: str) -> list[int]:
    """ "0*3 1 2" -> 0, 0, 0, 1, 2."""
    pairs = [part.split("*") for part in said.split()]
    return [int(symbol) for symbol, *times in pairs for _ in range(int(*times or [1]))]


def test_the_streams_of_the_page_are_those_of_the_book():
    chosen, shape, seen = ["fixed", "huffman", "fixed", "best", "context"], torch.Size([3, 20]), []
    lines = block("text", "code  stream").splitlines()[1:]
    for line, said in zip(lines[::2], lines[1::2], strict=True):
        code, stream = re.fullmatch(r"(\d) +([0-9a-f ]+)", line).groups()
        content, symbols = bytes.fromhex(stream), symbols_of(said)
        assert content[1] == int(code)
        assert fields.stream(np.array(symbols), chosen[int(code)], shape) == content, code
        assert stranger.stream(io.BytesIO(content), [*shape]) == symbols, code
        seen.append(int(code))
    assert seen == [fields.FIXED, fields.HUFFMAN, fields.CONSTANT, fields.RANGE, fields.CONTEXT]


def test_the_tables_of_the_context_code_have_the_hash_of_the_page():
    whole = [*stranger.STRETCH, *stranger.SQUASH]
    assert whole == [*fields.context.STRETCH, *fields.context.SQUASH]
    digest = hashlib.blake2b(struct.pack(f"<{len(whole)}q", *whole), digest_size=8).hexdigest()
    assert f"their hash is `{digest}`" in PAGE


BUILDS = {
    "linear": lambda: nn.Linear(3, 2),
    "lenet5": models.lenet5,
    "odd tensors": given_files.small,
    "attention": lambda: nn.TransformerEncoderLayer(8, 2),
    "recurrent": lambda: nn.LSTM(3, 2, num_layers=2),
    "one parameter alone": lambda: nn.PReLU(),
}


@pytest.mark.parametrize("build", BUILDS)
def test_the_architecture_of_the_page_has_the_fingerprint(build):
    model = BUILDS[build]()
    listed = json.dumps(architecture(model))
    assert storage.dumps(model)[5:13] == hashlib.blake2b(listed.encode(), digest_size=8).digest()
    assert build != "linear" or block("json", "[[").strip() == listed


def test_a_shared_tensor_comes_once_in_the_architecture():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight
    model.register_buffer("not_saved", torch.zeros(2), persistent=False)
    assert architecture(model) == [["0.weight", [5, 4], "torch.float32"]]
    content = storage.dumps(model)
    assert_same(stranger.decode(content, architecture(model)), storage.loads(content, model))


def test_the_types_of_the_page_have_their_widths():
    cells = re.findall(r"^\| (`torch\.\w+`(?:, `\w+`)*) \| ([\d, ]+) \|", PAGE, re.MULTILINE)
    widths = {}
    for names, sizes in cells:
        kinds = re.findall(r"`(?:torch\.)?(\w+)`", names)
        own = [int(size) for size in sizes.split(",")]
        widths |= dict(zip(kinds, own * len(kinds) if len(own) == 1 else own, strict=False))
    assert widths.keys() > stranger.TYPES.keys()
    assert widths == {kind: getattr(torch, kind).itemsize for kind in widths}
