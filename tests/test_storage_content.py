"""Files whose content is wrong, though well formed and with the right checksum: refused, at once, in little memory.

Set ``SURVEY_FUZZ=100000`` for a long run of the files that are wrong at random, half of them changed byte by byte.
"""

import os
import random
import resource
import subprocess
import sys
import time
import tracemalloc

import given
import given_files
import pytest
import torch
from given_files import FORMS, constant, of_one_weight
from torch import nn

from lib import storage, weights
from lib.coding import fields
from lib.hashing.shared import lookup
from lib.weights import CompressedWeight, Encoding

FILES = int(os.environ.get("SURVEY_FUZZ", 4000))  # that are wrong at random


@pytest.fixture(scope="module")
def right() -> dict[tuple[str, str], bytes]:
    return given_files.contents()


def raw(tensors: list[torch.Tensor]) -> list[bytes]:
    """Byte by byte: 0 and -0 differ."""
    return [tensor.flatten().view(torch.uint8).numpy().tobytes() for tensor in tensors]


# -- Right content -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_form_comes_back_bit_for_bit_with_every_coder(form, right):
    expected = raw(given_files.dense(FORMS[form](given_files.small()).eval()))
    for coder in storage.CODERS:
        assert raw(storage.loads(right[form, coder], given_files.small(1))) == expected, coder


def test_the_files_that_are_tried_hold_every_form_of_lib(right):
    model = given_files.small()
    held = {tensor["form"] for content in right.values() for tensor in given_files.apart(content, model)["tensors"]}
    with pytest.raises(ValueError, match="no technique stores weights as") as refusal:
        weights.form_named("Nothing")
    known = {name: weights.form_named(name) for name in str(refusal.value).partition("known are ")[2].split(", ")}
    of_lib = {name for name, form in known.items() if form.__module__.startswith("lib.")}  # other tests have some too
    with_bounds = {name for name in of_lib if known[name].most is not CompressedWeight.most}
    assert held == {"plain", "grid", *with_bounds} and of_lib - with_bounds == {"BinaryForm"}


def test_files_taken_apart_are_the_same_together(right):
    for content in right.values():
        assert given_files.together(given_files.apart(content, given_files.small())) == content


@pytest.mark.parametrize("form", FORMS)
def test_the_default_type_of_floats_changes_no_file(form, right):
    model, other = FORMS[form](given_files.small()).eval(), given_files.small(1)
    torch.set_default_dtype(torch.float64)
    try:
        assert storage.dumps(model) == right[form, "best"]
        again = storage.loads(right[form, "best"], other)
    finally:
        torch.set_default_dtype(torch.float32)
    expected = storage.loads(right[form, "best"], other)
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


class Elsewhere(torch.Tensor):
    """A tensor that numpy cannot read, as one on another device, before it is brought to the processor."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function.__name__ == "numpy":
            raise TypeError("can't convert a tensor of another device to numpy")
        if function.__name__ == "cpu":
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].detach().as_subclass(torch.Tensor)
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("form", FORMS)
def test_a_model_on_another_device_is_saved_alike(form, right, monkeypatch):
    monkeypatch.setattr(lookup, "COMPILED", ())  # what is compiled runs on the processor alone
    model = FORMS[form](given_files.small()).eval()
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                if tensor is not None:
                    moved = tensor.detach().as_subclass(Elsewhere)
                    kind[name] = nn.Parameter(moved, requires_grad=False) if kind is module._parameters else moved
    assert storage.dumps(model) == right[form, "best"]


# -- Wrong content by hand ---------------------------------------------------------------------------------------------


def symbols(*numbers: int) -> dict:
    return given_files.read_stream(fields.Reader(fields.stream(torch.tensor(numbers).numpy(), "fixed")))


def row(n: int) -> nn.Module:
    return nn.Linear(n, 1, bias=False)


SQUARE, ROW = nn.Linear(1000, 1000, bias=False), nn.Linear(20_000, 1, bias=False)
DEPTHWISE, PAIR = nn.Conv2d(512, 512, 3, groups=512, bias=False), nn.Linear(2, 1, bias=False)
MANY, MILLION = [0.0] * 50_000, 10**6
PACKED = {"count": MILLION, "coder": fields.FIXED, "parameter": 0, "content": b""}  # a million symbols of no bits
DEEP = {"count": 2, "coder": fields.HUFFMAN, "table": {"count": 2, "coder": fields.RANGE, "table": constant(60_000)}}
BY_HAND = {  # layer, form, streams, tables, what the refusal says
    "scales for no filter": (ROW, "BinaryWeight", {"bit": constant(20_000)}, {"alpha": MANY}, "at most 1"),
    "signs times no row": (ROW, "SignWeight", {"sign": constant(20_000)}, {"scale": MANY}, "at most"),
    "more grids than channels": (
        DEPTHWISE,
        "AffineWeight",
        {"code": constant(4608)},
        {"scale": MANY, "zero": [0], "axis": [1]},
        "at most 512",
    ),
    "grids of another axis": (
        DEPTHWISE,
        "AffineWeight",
        {"code": constant(4608)},
        {"scale": [0.0] * 512, "zero": [0], "axis": [1]},
        "shape",
    ),
    "no such axis": (
        PAIR,
        "AffineWeight",
        {"code": symbols(1, 2)},
        {"scale": [1, 1], "zero": [0], "axis": [7]},
        "shape",
    ),
    "half an axis": (
        PAIR,
        "AffineWeight",
        {"code": symbols(1, 2)},
        {"scale": [1], "zero": [0], "axis": [0.5]},
        "whole",
    ),
    "255 long stages": (
        SQUARE,
        "ResidualWeight",
        {f"code{i}": constant(MILLION) for i in range(255)},
        {"codeword": [0.0] * 1000, "layout": [0]},
        "at most 1000",
    ),
    "255 stages of a row": (
        nn.Linear(MILLION, 1, bias=False),
        "ResidualWeight",
        {f"code{i}": PACKED for i in range(255)},
        {"codeword": [0.0] * 254, "layout": [1]},
        "invalid",
    ),
    "stages that are not in order": (
        PAIR,
        "ResidualWeight",
        {"code0": symbols(0), "code2": symbols(0)},
        {"codeword": [1.0] * 4, "layout": [0]},
        "'code1' is missing",
    ),
    "a layout of no kind": (
        PAIR,
        "ResidualWeight",
        {"code0": symbols(0)},
        {"codeword": [1, 2], "layout": [-1]},
        "layout",
    ),
    "pieces of no length": (
        PAIR,
        "ProductWeight",
        {"code": symbols(0)},
        {"codeword": [1, 2], "layout": [0, 0, 0]},
        "layout",
    ),
    "pieces of another kind": (
        PAIR,
        "ProductWeight",
        {"code": symbols(0)},
        {"codeword": [1, 2], "layout": [1, -1, 0]},
        "layout",
    ),
    "two numbers for three": (
        PAIR,
        "ProductWeight",
        {"code": symbols(0)},
        {"codeword": [1, 2], "layout": [1, 0]},
        "3 whole",
    ),
    "a missing table": (PAIR, "SharedWeight", {"code": symbols(0, 1)}, {}, "'centroid' is missing"),
    "a missing stream": (PAIR, "SharedWeight", {}, {"centroid": [1, 2]}, "'code' is missing"),
    "another form's table": (PAIR, "SharedWeight", {"code": symbols(0, 1)}, {"scale": [1]}, "accepted are centroid"),
    "another form's stream": (PAIR, "SharedWeight", {"gap": symbols(0, 1)}, {"centroid": [1]}, "accepted are code"),
    "NaN": (PAIR, "SharedWeight", {"code": symbols(0, 1)}, {"centroid": [1, float("nan")]}, "NaN or infinity"),
    "infinity": (PAIR, "GridWeight", {"k": symbols(65535, 1)}, {"d": [3e38]}, "NaN or infinity"),
    "too few symbols": (PAIR, "SharedWeight", {"code": symbols(0)}, {"centroid": [1, 2]}, "shape"),
    "a base too many": (PAIR, "AbcWeight", {"abc": symbols(0, 1)}, {"layer": [1.0] * 17}, "at most 16"),
    "no base": (PAIR, "AbcWeight", {"abc": symbols(0, 1)}, {"layer": []}, "from 1 to 16"),
    "a form that is none": (PAIR, "BinaryForm", {}, {}, "NotImplementedError"),
    "a table of a table as long as a table": (PAIR, "SharedWeight", {"code": DEEP}, {"centroid": [1]}, "at most 545"),
}
for bits in (
    [],
    [4.0],
    [4.0, 4.0, 8.0],
    [4.0, 4.0, 8.0, 1.0],
    [float("nan"), 4.0],
    [float("inf"), 4.0],
    [1e9, 4.0],
    [0.5, 4.0],
):
    BY_HAND[f"a format of {bits}"] = (
        SQUARE,
        "FixedPointWeight",
        {"code": constant(MILLION)},
        {"bits": bits},
        "bits|at most 2",
    )
for exponent in (1e8, 4e9, 8e9, 1e12, 3e38, float("inf"), float("nan"), -1.0, 1.0, 9.0, 70.0):
    streams = {"sign and exponent": constant(MILLION), "significand": constant(MILLION)}
    BY_HAND[f"an exponent of {exponent:g} bits"] = (
        SQUARE,
        "FloatWeight",
        streams,
        {"widths": [exponent, 14.0]},
        "whole|in 2..8",
    )


@pytest.mark.parametrize("case", BY_HAND)
def test_wrong_content_is_refused_by_name_in_little_time_and_memory(case):
    layer, form, streams, tables, says = BY_HAND[case]
    weights.form_named(form)  # imported, so that its module is not counted
    content = of_one_weight(layer, form, streams, tables)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises(ValueError, match=f"content for weight .*({says})"):
            storage.loads(content, layer)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert time.process_time() - begin < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB: torch's memory is not traced


@pytest.mark.parametrize("form", sorted(FORMS.keys() - {"plain"}))
def test_no_stream_and_no_table_is_longer_than_its_form_says(form, right):
    model = given_files.small()
    file = given_files.apart(right[form, "best"], model)
    place, tensor = next((i, t) for i, t in enumerate(file["tensors"]) if "tables" in t)
    shape = given_files.dense(model)[place].shape
    streams, tables = weights.form_named(tensor["form"]).most(shape)
    assert max(streams.values(), default=0) <= shape.numel()
    longer = [{"streams": [[name, constant(streams[name] + 1)]]} for name, _ in tensor["streams"]]
    longer += [{"tables": [[name, [0.0] * (tables[name] + 1)]]} for name, _ in tensor["tables"]]
    for change in longer:
        tensors = [*file["tensors"][:place], tensor | change, *file["tensors"][place + 1 :]]
        with pytest.raises(ValueError, match="is announced where at most"):
            storage.loads(given_files.together(file | {"tensors": tensors}), model)


def test_a_bool_is_0_or_1():
    model = nn.Module()
    model.register_buffer("flags", torch.tensor([True, False]))
    body = bytearray(storage.dumps(model)[:-8])
    for byte in (0, 1):
        body[-1] = byte
        assert storage.loads(given_files.resealed(bytes(body)), model)[0].tolist() == [True, bool(byte)]
    body[-1] = 2
    with pytest.raises(
        ValueError, match="content for flags makes no sense: a byte is 2: accepted for bool are 0 and 1"
    ):
        storage.loads(given_files.resealed(bytes(body)), model)


# -- Wrong content at random -------------------------------------------------------------------------------------------


def changed_bytes(rng: random.Random, contents: list[bytes]) -> bytes:
    """A file in which some bytes are others, too many or too few, with the right checksum."""
    body = bytearray(rng.choice(contents)[:-8])
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(given_files.HEAD, len(body))
        match rng.randrange(6):
            case 0:
                del body[at:]
                body += rng.randbytes(rng.randrange(60))
            case 1:
                body[at] ^= 1 << rng.randrange(8)
            case 2:
                body[at] = rng.choice([0, 1, 2, 127, 128, 255])
            case 3:
                body[at:at] = rng.randbytes(rng.randint(1, 12))
            case 4:
                del body[at : at + rng.randint(1, 12)]
            case 5:
                body[at : at + 9] = b"\xff" * rng.randint(1, 9) + b"\x01"  # a size that lies
    return given_files.resealed(bytes(body))


@pytest.mark.parametrize("kind", ["content", "bytes"])
def test_wrong_files_are_refused_or_give_right_shapes(kind, right):
    rng, model = random.Random(FILES), given_files.small(1)
    contents = list(right.values())
    apart = [given_files.apart(content, model) for content in contents]
    expected = [(value.shape, value.dtype) for value in storage.loads(contents[0], model)]
    for name in {tensor["form"] for file in apart for tensor in file["tensors"]} - {"plain", "grid"}:
        weights.form_named(name)
    before, state = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, given.state(model)
    read, refused, slowest = 0, set(), 0.0
    for _ in range(FILES // 2):
        content = given_files.wrong(rng, apart) if kind == "content" else changed_bytes(rng, contents)
        begin = time.process_time()
        try:
            given_back = storage.loads(content, model)
        except ValueError as error:
            refused.add(str(error))
        else:
            read += 1
            assert [(value.shape, value.dtype) for value in given_back] == expected
        slowest = max(slowest, time.process_time() - begin)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"\n{FILES // 2} files wrong in {kind}: {read} read, slowest {slowest:.3f} s, {growth:.1f} MiB more memory")
    assert 0.02 < read / (FILES // 2) < 0.5 and len(refused) > 100
    assert all(message and "\n" not in message for message in refused)
    assert slowest < 2 and growth < 64 and given.same_state(given.state(model), state)


# -- Models that no file can hold, and places where none can be written ------------------------------------------------


class Counting(nn.Linear):
    def get_extra_state(self):
        return 3

    def set_extra_state(self, state):
        pass


def holding(tensor: torch.Tensor) -> nn.Module:
    model = nn.Module()
    model.register_buffer("held", tensor)
    return model


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: nn.Linear(3, 2, device="meta"), "bias is on the device meta"),
        (lambda: nn.LazyLinear(2), "the model is a LazyLinear, which keeps values in a way of its own"),
        (lambda: holding(nn.UninitializedParameter()), "held has no shape before the network has seen an input"),
        (lambda: holding(torch.eye(3).to_sparse()), "held is torch.sparse_coo"),
        (lambda: nn.Sequential(nn.ReLU(), Counting(3, 2)), "1 has an extra state"),
    ],
)
def test_a_model_that_no_file_can_hold_is_refused(build, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        storage.save(build(), tmp_path / "x.slim")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: holding(torch.ones(1).expand(5)), "the values of held share one place"),
        (in_inference_mode, "bias was made in inference mode"),
    ],
)
def test_a_model_that_cannot_be_written_to_is_left_alone(build, says, tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), build())
    state = given.state(model)
    storage.save(nn.Sequential(nn.Linear(2, 2), build()), tmp_path / "x.slim")
    with pytest.raises(ValueError, match=f"1.{says}|{says.replace('held', '1.held')}"):
        storage.load(tmp_path / "x.slim", model)
    assert given.same_state(given.state(model), state)


def test_weights_that_are_not_finite_are_not_saved_in_a_form():
    model = FORMS["shared"](given_files.small())
    model.linear.parametrizations.weight.original.data[0] = float("inf")
    with pytest.raises(ValueError, match=r"linear\.weight holds NaN or infinity"):
        storage.dumps(model)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (4, 3)])
def test_tensors_of_any_type_and_shape_come_back(shape, dtype, tmp_path):
    tensor = (3 * torch.randn(shape, generator=given.generator())).to(dtype)
    for held in (tensor, tensor.mT if len(shape) > 1 else tensor, tensor.flip(0) if shape else tensor):
        storage.save(holding(held), tmp_path / "x.slim", coder="context")
        assert torch.equal(storage.load(tmp_path / "x.slim", holding(torch.zeros_like(held))).held, held)


@pytest.mark.parametrize("held", [torch.randn(3, dtype=torch.complex64), torch.randn(3, dtype=torch.complex64).conj()])
def test_complex_tensors_come_back(held):
    assert torch.equal(storage.loads(storage.dumps(holding(held)), holding(held))[0], held)


@pytest.mark.parametrize("name", ["", "x" * 1000, "größe 層", "\ud800"])
def test_a_layer_may_have_any_name(name, tmp_path):
    models = []
    for seed in (0, 1):
        model = nn.Module()
        model._modules[name] = given.seeded(lambda: nn.Linear(3, 2), seed)
        models.append(model)
    storage.save(models[0], tmp_path / "x.slim")
    storage.load(tmp_path / "x.slim", models[1])
    assert given.same_state(given.state(models[0]), given.state(models[1]))


def test_a_file_may_have_the_longest_name_that_there_is(tmp_path):
    path = tmp_path / ("x" * 250 + ".slim")
    assert storage.save(nn.Linear(3, 2), path) == path.stat().st_size and list(tmp_path.iterdir()) == [path]


def test_a_place_where_no_file_can_be_written_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no/model\.slim'$"):
        storage.save(nn.Linear(3, 2), tmp_path / "no" / "model.slim")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.slim"
    storage.save(nn.Linear(3, 2), path)
    old, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"x\.slim"):
            storage.save(nn.Linear(300, 200), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


# -- Forms by name -----------------------------------------------------------------------------------------------------


class OwnWeight(CompressedWeight):
    """A technique that keeps more than it says."""

    def forward(self, weight):
        return weight

    def right_inverse(self, weight):
        return weight

    def encode(self, weight):
        return Encoding(tables={"value": weight.flatten(), self.also: weight.new_zeros(3)})

    @staticmethod
    def decode(encoding, shape):
        return encoding.tables["value"].reshape(shape)

    @staticmethod
    def most(shape):
        return {}, {"value": shape.numel(), "more": 3}


@pytest.mark.parametrize(
    ("also", "says"), [("other", "3 entries of 'other', and its bounds are"), ("größe", "größe"), ("more", "")]
)
def test_what_a_reader_would_refuse_is_not_written(also, says):
    form, layer = OwnWeight(), nn.Linear(3, 2, bias=False)
    form.also = also
    weights.compress(layer, lambda *_: form)
    if says:
        with pytest.raises(ValueError, match=f"weight cannot be stored as OwnWeight: .*{says}"):
            storage.dumps(layer)
    else:
        assert torch.equal(storage.loads(storage.dumps(layer), layer)[0], layer.weight)


def test_a_name_of_several_forms_is_refused(monkeypatch):
    other = type("OwnWeight", (CompressedWeight,), {"__module__": "another"})
    with pytest.raises(ValueError, match=r"several forms, another\.OwnWeight, .*test_storage_content\.OwnWeight"):
        weights.form_named("OwnWeight")
    other.__name__ = "OwnOther"  # whatever keeps it alive
    again = type("OwnOther", (CompressedWeight,), {"__module__": "another", "__qualname__": other.__qualname__})
    assert weights.form_named("OwnOther") is again  # defined again, as in a notebook: the last one counts


def test_the_first_file_imports_the_modules_of_its_forms_alone():
    code = (
        "import sys\nfrom lib import storage, weights\nbefore = set(sys.modules)\n"
        "try:\n    weights.form_named('Nothing')\nexcept ValueError as error:\n    print(error)\n"
        "assert set(sys.modules) == before\nprint(weights.form_named('SharedWeight').__module__)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('lib.')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    refusal, module, imported = out.splitlines()
    assert "known are AbcWeight" in refusal and module == "lib.quantization.scalar_kmeans"
    assert module in imported.split() and not any(name.startswith("lib.binarization") for name in imported.split())
