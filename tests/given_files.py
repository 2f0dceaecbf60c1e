"""Files of models for tests: of every form, apart and together again, and with wrong content that is well formed.

A file that is taken apart is a dict: its ``head``, ``more`` names in its list of forms, and the ``tensors``, each of
them a dict with the key ``form``: "plain" (its ``raw`` bytes), "grid" (``exponent`` and ``stream``), or the name of a
form (``streams`` and ``tables``, lists of [name, content]). A stream is a dict of ``count``, ``coder``, and what that
coder needs: ``parameter``, ``table`` (a stream) and ``content``.
"""

import copy
import hashlib
import random

import given
import numpy as np
import torch
from torch import nn

from lib import storage
from lib.binarization import abc_net, binaryconnect, bwn
from lib.binarization.shared.states import TernaryStates
from lib.coding import fields
from lib.hashing import hashed_nets
from lib.precision import fixed_point, limited_precision
from lib.precision.shared.formats import Format
from lib.pruning import magnitude
from lib.quantization import (
    affine,
    deep_compression,
    product_quantization,
    residual_quantization,
    scalar_kmeans,
    sign_quantization,
)
from lib.quantization.optimal_kmeans import optimal
from lib.quantization.shared import joint_codebook, whole_steps
from lib.weights import compress, decompress

HEAD = 13  # bytes: the format's name and version, and the fingerprint of the architecture


class Small(nn.Module):
    """Layers of each kind, and tensors that are odd: empty, of no dimension, half, bool, on a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4, bias=False)
        self.transposed = nn.ConvTranspose2d(4, 3, 2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(12, 7)
        self.one = nn.Linear(30, 1, bias=False)
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.scalar = nn.Parameter(torch.tensor(0.5))
        self.short = nn.Parameter(torch.randn(5).half())
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("eighths", torch.arange(40.0).reshape(5, 8) / 8 % 3)


def small(seed: int = 0) -> Small:
    return given.seeded(Small, seed)


# Every form that a technique of lib has, at least once; some with all that they can say.
FORMS = {
    "plain": lambda m: m,
    "pruned": lambda m: magnitude.prune(m, density=0.2),
    "barely pruned": lambda m: magnitude.prune(m, density=0.99),
    "shared": lambda m: scalar_kmeans.share(m, bits=3),
    "pruned and shared": lambda m: deep_compression.share_survivors(magnitude.prune(m, density=0.3), bits=3),
    "shared by all layers": lambda m: joint_codebook.share_together(m, lambda v, w: optimal(v, 5, w)),
    "steps": lambda m: whole_steps.to_steps(magnitude.prune(m, density=0.4), step=0.7),
    "product": lambda m: product_quantization.quantize(m, bits=1, length=3),
    "product, inputs": lambda m: product_quantization.quantize(m, bits=1, length=1, vectors="inputs", shared=True),
    "residual": lambda m: residual_quantization.quantize(m, bits=1, stages=3),
    "residual, inputs": lambda m: residual_quantization.quantize(m, bits=1, stages=2, vectors="inputs"),
    "sign": lambda m: sign_quantization.quantize(m, scale="row"),
    "affine": lambda m: affine.quantize(m, bits=5, symmetric=False),
    "affine, one grid": lambda m: affine.quantize(m, bits=12, per_channel=False),
    "fixed point": lambda m: fixed_point.quantize(m, Format(2, 6)),
    "fixed point, long": lambda m: fixed_point.quantize(m, Format(2, 20)),
    "short floats": lambda m: limited_precision.store(m, exponent=5, significand=10),
    "signs": lambda m: binaryconnect.binarize(m),
    "drawn signs": lambda m: binaryconnect.binarize(m, stochastic=True),
    "scaled signs": lambda m: compress(m, lambda *_: bwn.BinaryWeight()),
    "sums of signs": lambda m: compress(m, lambda *_: abc_net.AbcWeight(3)),
    "greedy sums": lambda m: compress(m, lambda *_: abc_net.AbcWeight(4, kind="greedy", scope="filter")),
    "states": lambda m: compress(m, lambda *_: TernaryStates(2)),
    "hashed": lambda m: hashed_nets.compress(m, fraction=0.5),
    "hashed, no signs": lambda m: hashed_nets.compress(m, fraction=0.2, signed=False, start="project"),
    "edges": lambda m: hashed_nets.remove_edges(m, fraction=0.5),
}


def contents() -> dict[tuple[str, str], bytes]:
    """(form, coder) -> the content of a file of :func:`small` that is right."""
    models = {form: change(small()) for form, change in FORMS.items()}
    return {
        (form, coder): storage.dumps(model, coder=coder) for form, model in models.items() for coder in storage.CODERS
    }


def dense(model: nn.Module) -> list[torch.Tensor]:
    """The tensors that a file of this model holds, in its order, as they are without any form."""
    plain = decompress(copy.deepcopy(model))
    return storage.loads(storage.dumps(plain, coder="fixed"), plain)


def resealed(body: bytes) -> bytes:
    """The body with the checksum that is right for it."""
    return body + hashlib.blake2b(body, digest_size=8).digest()


# -- Apart, and together again -----------------------------------------------------------------------------------------


def apart(content: bytes, model: nn.Module) -> dict:
    """Take the content of a right file of this model apart."""
    reader = fields.Reader(content[:-8], HEAD)
    forms = [reader.name() for _ in range(reader.integer(255))]
    tensors = []
    for tensor in dense(model):
        index = reader.integer(300)
        if index == 0:
            raw = bytes(reader.take(tensor.numel() * tensor.element_size()))
            tensors.append({"form": "plain", "raw": raw})
        elif index == 1:
            tensors.append({"form": "grid", "exponent": reader.integer(300), "stream": read_stream(reader)})
        else:
            streams = [[reader.name(), read_stream(reader)] for _ in range(reader.integer(255))]
            tables = [[reader.name(), reader.floats(2**30).numpy()] for _ in range(reader.integer(255))]
            tensors.append({"form": forms[index - 2], "streams": streams, "tables": tables})
    assert reader.left() == 0
    return {"head": content[:HEAD], "more": [], "tensors": tensors}


def read_stream(reader: fields.Reader) -> dict:
    """Take a stream apart; nothing is decoded."""
    stream: dict = {"count": reader.integer(2**40), "coder": reader.integer(fields.CONTEXT)}
    if stream["coder"] in (fields.FIXED, fields.CONTEXT, fields.CONSTANT):
        stream["parameter"] = reader.integer(2**16)
    else:
        stream["table"] = read_stream(reader)
    if stream["coder"] != fields.CONSTANT:
        stream["content"] = bytes(reader.take(reader.integer(reader.left())))
    return stream


def together(file: dict) -> bytes:
    """The content of a file: every length, and the checksum, are those of what is in it."""
    named = [tensor["form"] for tensor in file["tensors"] if tensor["form"] not in ("plain", "grid")]
    forms = sorted({*named, *file["more"]})
    out = bytearray(file["head"] + fields.integer(len(forms)) + b"".join(map(fields.name, forms)))
    for tensor in file["tensors"]:
        if tensor["form"] == "plain":
            out += fields.integer(0) + tensor["raw"]
        elif tensor["form"] == "grid":
            out += fields.integer(1) + fields.integer(tensor["exponent"]) + _coded(tensor["stream"])
        else:
            out += fields.integer(forms.index(tensor["form"]) + 2) + fields.integer(len(tensor["streams"]))
            for name, stream in tensor["streams"]:
                out += fields.name(name) + _coded(stream)
            out += fields.integer(len(tensor["tables"]))
            for name, values in tensor["tables"]:
                out += fields.name(name) + fields.integer(len(values)) + np.asarray(values, dtype="<f4").tobytes()
    return resealed(bytes(out))


def _coded(stream: dict) -> bytes:
    out = fields.integer(stream["count"]) + fields.integer(stream["coder"])
    if stream["coder"] in (fields.FIXED, fields.CONTEXT, fields.CONSTANT):
        out += fields.integer(stream.get("parameter", 1))
    else:
        out += _coded(stream.get("table", constant(2, 1)))
    return out if stream["coder"] == fields.CONSTANT else out + fields.sized(stream.get("content", b""))


def constant(count: int, symbol: int = 0) -> dict:
    """A stream of one symbol: a few bytes, however long it is."""
    return {"count": count, "coder": fields.CONSTANT, "parameter": symbol}


def of_one_weight(layer: nn.Module, form: str, streams: dict[str, dict], tables: dict[str, list[float]]) -> bytes:
    """The content of a file of a layer without a bias, whose weight is what these streams and tables say."""
    weight = {"form": form, "streams": [*streams.items()], "tables": [*tables.items()]}
    return together({"head": storage.dumps(layer)[:HEAD], "more": [], "tensors": [weight]})


# -- Wrong content -----------------------------------------------------------------------------------------------------

NUMBERS = [
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    15,
    16,
    17,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    511,
    545,
    546,
    65535,
    65536,
    2**31,
    2**62,
]
VALUES = [0.0, -0.0, 1.0, -1.0, 2.0, 3.0, 4.0, 8.0, 9.0, 16.0, 17.0, 32.0, 64.0, 0.5, 1e3, 1e9, 2.0**24, 2.0**31, 3e38]
VALUES += [-3e38, 1e-45, float("inf"), float("-inf"), float("nan")]
STREAMS = ["abc", "bit", "code", "code0", "code1", "code2", "code254", "gap", "greedy", "high", "k", "low", "sign"]
STREAMS += ["sign and exponent", "significand", "state"]
TABLES = ["alpha", "axis", "bits", "centroid", "codeword", "d", "filter", "layer", "layout", "real", "scale", "step"]
TABLES += ["value", "widths", "zero"]
NAMES = ["CompressedWeight", "BinaryForm", "Encoding", "os", "", "x" * 255]  # of no form


def wrong(rng: random.Random, files: list[dict]) -> bytes:
    """A file with one to four changes: well formed, with the right checksum, and hardly ever with right content.

    rng: decides which.
    files: right ones, taken apart, of one architecture.
    """
    file = rng.choice(files)
    file = {**file, "more": [*file["more"]], "tensors": [*file["tensors"]]}
    for _ in range(rng.choice([1, 1, 1, 2, 2, 4])):
        _change(rng, file, files)
    return together(file)


def _change(rng: random.Random, file: dict, files: list[dict]) -> None:
    compressed = [i for i, tensor in enumerate(file["tensors"]) if tensor["form"] != "plain"]
    place = rng.choice(compressed) if compressed and rng.random() < 0.8 else rng.randrange(len(file["tensors"]))
    tensor = file["tensors"][place] = copy.deepcopy(file["tensors"][place])
    other = rng.choice(rng.choice(files)["tensors"])
    match rng.randrange(16):
        case 0:  # what another tensor says
            file["tensors"][place] = copy.deepcopy(other)
        case 1:  # what another file says of this one
            file["tensors"][place] = copy.deepcopy(rng.choice(files)["tensors"][place])
        case 2 if rng.random() < 0.3:
            file["more"] += rng.sample(NAMES, rng.randrange(1, 3))
        case 3:
            file["tensors"][place] = {"form": "grid", "exponent": _number(rng, 150), "stream": _random(rng, place)}
        case 4 if "raw" in tensor:
            tensor["raw"] = rng.randbytes(len(tensor["raw"]))
        case _ if "stream" in tensor:
            if rng.random() < 0.3:
                tensor["exponent"] = _number(rng, 276)
            tensor["stream"] = _wrong(rng, tensor["stream"])
        case _ if "raw" in tensor:  # a form from nothing
            form = rng.choice(
                [name for name in {t["form"] for t in files[-1]["tensors"]} if name not in ("plain", "grid")]
            )
            names = rng.sample(STREAMS, rng.randrange(3)), rng.sample(TABLES, rng.randrange(4))
            streams, tables = (
                [[name, _random(rng, 36)] for name in names[0]],
                [[name, _table(rng)] for name in names[1]],
            )
            file["tensors"][place] = {"form": form, "streams": streams, "tables": tables}
        case 5 if "tables" in other:
            tensor["form"] = other["form"]
        case 6:
            _rename(rng, tensor["streams"], STREAMS, lambda: _random(rng, 36))
        case 7:
            _rename(rng, tensor["tables"], TABLES, lambda: _table(rng))
        case 8 | 9 | 10 | 11 if tensor["tables"]:
            table = rng.choice(tensor["tables"])
            table[1] = _table(rng) if rng.random() < 0.3 else _other_values(rng, table[1])
        case _ if tensor["streams"]:
            stream = rng.choice(tensor["streams"])
            stream[1] = _wrong(rng, stream[1])


def _rename(rng: random.Random, entries: list, names: list[str], make) -> None:
    """Streams or tables of other names, one more, one less, one twice, in another order."""
    match rng.randrange(5):
        case 0 if entries:
            rng.choice(entries)[0] = rng.choice(names)
        case 1 if entries:
            del entries[rng.randrange(len(entries))]
        case 2 if entries:
            entries.append(copy.deepcopy(rng.choice(entries)))
        case 3:
            rng.shuffle(entries)
        case _:
            entries.append([rng.choice(names), make()])


def _wrong(rng: random.Random, stream: dict) -> dict:
    """A stream with one thing changed, or another one."""
    match rng.randrange(8):
        case 0:
            return stream | {"count": _number(rng, stream["count"])}
        case 1:
            return stream | {"coder": rng.randrange(fields.CONTEXT + 1), "parameter": _number(rng, 16)}
        case 2:
            return stream | {"parameter": _number(rng, stream.get("parameter", 8))}
        case 3 if stream.get("content"):
            content, at = bytearray(stream["content"]), rng.randrange(len(stream["content"]))
            content[at] ^= 1 << rng.randrange(8)
            return stream | {"content": bytes(content)}
        case 4 if "content" in stream:
            content = stream["content"]
            return stream | {"content": content[: rng.randrange(len(content) + 1)] + rng.randbytes(rng.randrange(9))}
        case 5 | 6 if "table" in stream:
            return stream | {"table": _wrong(rng, stream["table"])}
        case 7 if rng.random() < 0.2:  # deeper than any writer goes
            return stream | {"coder": fields.HUFFMAN, "table": stream}
        case _:
            return _random(rng, stream["count"])


def _random(rng: random.Random, count: int) -> dict:
    """A stream that is right in itself: of some number of symbols, some of them large, written by some coder."""
    count = max(0, rng.choice([count, count, count, count - 1, count + 1, 0, 1, 2 * count, rng.randrange(100)]))
    if count > 5000 or rng.random() < 0.2:
        return constant(count, _number(rng, 8))
    largest = rng.choice([1, 2, 4, 8, 300, 511]) if rng.random() < 0.97 else 65536
    symbols = np.array([rng.randrange(largest) if rng.random() < 0.5 else 0 for _ in range(count)], dtype=np.int64)
    coder = rng.choice(storage.CODERS)
    return read_stream(fields.Reader(fields.stream(symbols, coder, torch.Size([count]))))


def _table(rng: random.Random) -> list[float]:
    return [rng.choice(VALUES) for _ in range(rng.choice([0, 1, 1, 2, 3, 4, 5, 17, 65, 300]))]


def _other_values(rng: random.Random, values) -> list[float]:
    values = [*values]
    match rng.randrange(4):
        case 0:
            return values[: rng.randrange(len(values) + 1)]
        case 1:
            return values + [rng.choice(VALUES) for _ in range(rng.choice([1, 2, 100]))]
        case 2:
            return values * rng.choice([2, 3, 50])
        case _:
            for _ in range(rng.choice([1, 1, 5])):
                if values:
                    values[rng.randrange(len(values))] = rng.choice(VALUES)
            return values


def _number(rng: random.Random, near: int) -> int:
    return max(0, near + rng.choice([-2, -1, 1, 2])) if rng.random() < 0.7 else rng.choice(NUMBERS)
