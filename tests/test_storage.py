"""Files: bit for bit there and back, no larger than they must be, and safe to open whatever they hold."""

import hashlib
import os
import random
import resource
import time
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lib import measure, models, storage
from lib.coding import coders
from lib.pruning import magnitude
from lib.quantization import deep_compression, scalar_kmeans
from lib.vision import torchvision
from lib.weights import compressed_form, layers


def bits(model: nn.Module) -> dict[str, bytes]:
    """Every parameter and buffer of the dense model, byte for byte: 0 and -0 differ."""
    found = {}
    for prefix, module in model.named_modules():
        if "parametrizations" in prefix:
            continue
        names = [k for k, _ in module.named_parameters(recurse=False)] + [
            k for k, _ in module.named_buffers(recurse=False)
        ]
        names += ["weight"] if compressed_form(module) else []
        for name in names:
            found[f"{prefix}.{name}"] = getattr(module, name).detach().contiguous().numpy().tobytes()
    return found


def resealed(content: bytes) -> bytes:
    """The content with its checksum made right again."""
    return content + hashlib.blake2b(content, digest_size=8).digest()


CHANGES = {
    "dense": lambda m: m,
    "pruned": lambda m: magnitude.prune(m, density=0.1, scope="global"),
    "barely pruned": lambda m: magnitude.prune(m, density=0.99),
    "shared": lambda m: scalar_kmeans.share(m, bits=4),
    "pruned and shared": lambda m: deep_compression.share_survivors(magnitude.prune(m, density=0.05), bits=5),
    "one value": lambda m: deep_compression.share_survivors(magnitude.prune(m, density=0.05), bits=1),
    "two forms": lambda m: scalar_kmeans.share(magnitude.prune(m, density=0.1), bits={next(layers(m))[0]: 3}),
}


@pytest.mark.parametrize("coder", storage.CODERS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("build", [models.lenet_300_100, models.lenet5])
def test_a_model_comes_back_bit_for_bit(build, change, coder, tmp_path):
    model = CHANGES[change](build(0)).eval()
    size = storage.save(model, tmp_path / "model.slim", coder=coder)
    loaded = storage.load(tmp_path / "model.slim", build(1))
    x = torch.rand(3, 1, 28, 28)
    assert size == (tmp_path / "model.slim").stat().st_size
    assert bits(loaded) == bits(model)
    assert torch.equal(loaded.eval()(x), model(x))
    assert not any(parametrize.is_parametrized(m) for m in loaded.modules())


@pytest.fixture(scope="module", params=["squeezenet1_1", "mobilenet_v2"])
def foreign(request):
    """A model nobody here wrote: pruned, with the survivors sharing 15 values, and how to build it again."""

    def build():
        return getattr(torchvision.models, request.param)(weights=None, num_classes=10).eval()

    model = magnitude.prune(build(), density=0.1, scope="global")
    return deep_compression.share_survivors(model, bits=4), build


def test_models_nobody_here_wrote_come_back_bit_for_bit(foreign, tmp_path):
    model, build = foreign
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        size = storage.save(model, tmp_path / "model.slim")
        assert torch.equal(model(x), before)
        loaded = storage.load(tmp_path / "model.slim", build())
        assert torch.equal(loaded(x), before)
    assert bits(loaded) == bits(model)
    assert size < measure.dense_bytes(model) / 10


class Odd(nn.Module):
    """Depthwise, grouped, bias-free, nested, normalized, empty, half, integer and boolean tensors."""

    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4, bias=False)
        self.inner = nn.ModuleList([nn.Conv2d(4, 6, 1, groups=2), nn.BatchNorm2d(6)])
        self.one = nn.Conv2d(1, 1, 1, bias=False)
        self.small = nn.Parameter(torch.randn(3).half())
        self.scalar = nn.Parameter(torch.tensor(-0.0))
        self.register_buffer("table", torch.arange(5).to(torch.int16))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("scratch", torch.zeros(7), persistent=False)
        self.register_buffer("nothing", None)
        self.empty = nn.Parameter(torch.zeros(0, 3))


@pytest.mark.parametrize("change", CHANGES)
def test_odd_tensors_come_back_bit_for_bit(change, tmp_path):
    model, other = CHANGES[change](Odd()), Odd()
    model.inner[1].running_var.fill_(3)
    model.inner[1].num_batches_tracked.fill_(7)
    model.scratch.fill_(1)  # not persistent: stays with its model
    storage.save(model, tmp_path / "odd.slim")
    loaded = bits(storage.load(tmp_path / "odd.slim", other))
    expected = bits(model)
    assert loaded.pop(".scratch") != expected.pop(".scratch")
    assert loaded == expected


def test_tied_weights_stay_tied(tmp_path):
    def build(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    storage.save(build(0), tmp_path / "tied.slim")
    loaded = storage.load(tmp_path / "tied.slim", build(1))
    assert loaded[0].weight is loaded[1].weight and bits(loaded) == bits(build(0))


def test_a_tensor_that_two_modules_share_is_written_once():
    model = nn.Sequential(nn.Embedding(50, 20), nn.Linear(20, 50, bias=False))
    model[1].weight = model[0].weight
    assert 4 * 50 * 20 < len(storage.dumps(model)) < 4 * 50 * 20 + 100
    with pytest.raises(ValueError, match="another architecture"):
        storage.loads(storage.dumps(model), nn.Sequential(nn.Embedding(50, 20), nn.Linear(20, 50, bias=False)))


def test_streams_are_called_like_the_weights_they_are_of():
    for model in (nn.Linear(4, 3), nn.LSTM(4, 3), nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 3))):
        magnitude.prune(model, density=0.5)
        assert sorted(dict(storage.streams(model))) == sorted(name for name, _ in layers(model))


def test_special_floats_come_back_bit_for_bit(tmp_path):
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[-0.0, float("nan"), float("inf"), 1e-42]])
    storage.save(layer, tmp_path / "x.slim")
    assert bits(storage.load(tmp_path / "x.slim", nn.Linear(4, 1, bias=False))) == bits(layer)


def test_a_layer_without_survivors_comes_back(tmp_path):
    for change in (lambda m: magnitude.prune(m, density=0.5), lambda m: deep_compression.share_survivors(m, bits=3)):
        model = models.lenet_300_100()
        model.fc2.weight.data.zero_()
        storage.save(change(model), tmp_path / "x.slim")
        loaded = storage.load(tmp_path / "x.slim", models.lenet_300_100(1))
        assert loaded.fc2.weight.count_nonzero() == 0 and bits(loaded) == bits(model)


def test_loading_into_a_compressed_model_gives_the_dense_one(tmp_path):
    source = models.lenet_300_100(0)
    storage.save(source, tmp_path / "x.slim")
    target = deep_compression.share_survivors(models.lenet_300_100(1), bits=3)
    assert bits(storage.load(tmp_path / "x.slim", target)) == bits(source)


def test_the_file_is_the_same_each_time():
    model = CHANGES["pruned and shared"](models.lenet_300_100())
    assert storage.dumps(model) == storage.dumps(model)


# -- Size --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 5])
@pytest.mark.parametrize("density", [0.02, 0.03, 0.05, 0.08, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("build", [models.lenet_300_100, models.lenet5])
def test_overhead_over_the_entropy_is_small(build, density, bits):
    model = deep_compression.share_survivors(magnitude.prune(build(), density=density), bits=bits)
    biases = sum(4 * layer.bias.numel() for _, layer in layers(model))
    entropy = 0.0
    for _, encoding in storage.streams(model):
        entropy += sum(4 * t.numel() for t in encoding.tables.values())
        entropy += sum(coders.entropy_bits(np.bincount(s.numpy())) / 8 for s in encoding.symbols.values())
    assert biases + entropy < len(storage.dumps(model)) <= 1.02 * (biases + entropy) + 300


@pytest.mark.parametrize(("q", "lower", "upper"), [(4, 7.5, 8.0), (2, 15, 16), (1, 29, 32)])
def test_size_of_shared_weights_is_the_formula_and_a_header(q, lower, upper):
    model = scalar_kmeans.share(models.lenet_300_100(), bits=q)
    formula = sum(-(-layer.weight.numel() * q // 8) + 4 * 2**q + 4 * layer.bias.numel() for _, layer in layers(model))
    size = len(storage.dumps(model, coder="fixed"))
    assert 0 <= size - formula <= 150
    assert lower <= measure.dense_bytes(model) / size <= upper


def test_entropy_coding_never_makes_a_file_longer():
    for change in CHANGES.values():
        model = change(models.lenet_300_100())
        context, best, huffman, fixed = (len(storage.dumps(model, coder=coder)) for coder in storage.CODERS)
        assert context <= best <= huffman <= fixed


def test_an_unknown_coder_is_refused():
    with pytest.raises(ValueError, match=r"best, huffman, fixed, not 'zip'"):
        storage.dumps(models.lenet_300_100(), coder="zip")


def test_a_stream_of_one_symbol_takes_a_few_bytes_however_long():
    layer = nn.Linear(1000, 1000, bias=False)
    nn.init.constant_(layer.weight, 0.5)
    assert len(storage.dumps(scalar_kmeans.share(layer, bits=4))) < 70


@pytest.mark.parametrize(
    ("values", "bytes_more"),
    [
        ([0.0] * 500, 12),
        ([1.0, -3.0, 0.5, 127.5] * 100, 150),
        ([2.0**-149, -(2.0**-148)], 20),
        ([2.0**127, -(2.0**126)], 20),
        ([0.125], 20),
    ],
)
def test_plain_tensors_on_a_grid_are_whole_numbers_in_the_file(values, bytes_more):
    def build(numbers):
        layer = nn.BatchNorm1d(len(numbers), affine=False, track_running_stats=False)
        layer.register_buffer("table", torch.tensor(numbers))
        return layer

    empty = len(storage.dumps(build([]), coder="context"))
    content = storage.dumps(build(values), coder="context")
    assert bits(build(values))[".table"] == storage.loads(content, build(values))[0].numpy().tobytes()
    assert len(content) <= empty + min(bytes_more, 4 * len(values) + 2)


@pytest.mark.parametrize("value", [-0.0, float("nan"), float("inf"), 1 / 3, 2.0**-149 + 2.0**-100, 300.0])
def test_what_lies_on_no_grid_stays_as_it_is(value):
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[value, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert bits(layer)[".weight"] == storage.loads(storage.dumps(layer, coder="context"), layer)[0].numpy().tobytes()


def test_the_code_by_context_takes_lines_of_the_width_that_suits_them():
    layer, levels = nn.Linear(784, 40, bias=False), torch.zeros(40, 28, 28)
    levels[:, 8:14, 10:15] = 1.0
    layer.weight.data = levels.reshape(40, 784)
    lines = len(storage.dumps(layer, coder="context"))
    layer.weight.data = levels.reshape(40, 784)[:, torch.randperm(784, generator=torch.Generator().manual_seed(0))]
    assert lines < len(storage.dumps(layer, coder="context")) - 10


# -- Damage ------------------------------------------------------------------------------------------------------------


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 30), nn.Linear(30, 10))


def on_a_grid(model: nn.Module) -> nn.Module:
    """Biases, and what batch norm holds, are whole eighths."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.dim() == 1:
            tensor.data = torch.round(8 * tensor.detach()) / 8 + 0.0
    return model


@pytest.fixture(scope="module")
def contents() -> list[bytes]:
    """Files of one small model in every form, and one of another model."""
    made = [magnitude.prune(small(), density=0.2), scalar_kmeans.share(small(), bits=3), small()]
    made += [deep_compression.share_survivors(magnitude.prune(small(), density=d), bits=3) for d in (0.05, 0.5)]
    made.append(scalar_kmeans.share(magnitude.prune(small(), density=0.1), bits={"3": 2}))
    by_context = [storage.dumps(scalar_kmeans.share(on_a_grid(small()), bits=3), coder="context")]
    return [storage.dumps(model) for model in made] + by_context


def mutated(rng: random.Random, contents: list[bytes]) -> bytes:
    content = bytearray(rng.choice(contents))
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if not content:
            break
        at = rng.randrange(len(content))
        match rng.randrange(8):
            case 0:
                del content[at:]
            case 1:
                content[at] ^= 1 << rng.randrange(8)
            case 2:
                content[at] = rng.choice([0, 1, 127, 128, 255])
            case 3:
                content[at:at] = rng.randbytes(rng.randint(1, 12))
            case 4:
                del content[at : at + rng.randint(1, 12)]
            case 5:
                other = rng.choice(contents)
                content[at:] = other[rng.randrange(len(other)) :]
            case 6:
                content[at : at + 9] = b"\xff" * rng.randint(1, 9) + b"\x01"  # a size that lies
            case 7:
                content = bytearray(rng.randbytes(rng.randrange(200)))
    return bytes(content)


@pytest.fixture
def bounded():
    """At most 20 s, and 2 GiB of address space more than now."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**31, limits[1]))
    begin = time.monotonic()
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert time.monotonic() - begin < 20


def test_no_mutation_passes_the_checksum(contents, bounded):
    rng, model = random.Random(0), small(1)
    before, refused = bits(model), 0
    for _ in range(2000):
        content = mutated(rng, contents)
        if content not in contents:
            with pytest.raises(ValueError):
                storage.loads(content, model)
            refused += 1
    assert refused > 1900 and bits(model) == before


def test_with_a_right_checksum_the_parser_refuses_or_gives_right_shapes(contents, bounded):
    rng, model = random.Random(1), small(1)
    shapes = [(t.shape, t.dtype) for t in storage.loads(contents[0], model)]
    bodies, outcomes = [content[:-8] for content in contents], {"refused": 0, "read": 0}
    messages: set[str] = set()
    for _ in range(3000):
        body = mutated(rng, bodies)
        if rng.random() < 0.9:  # let most reach what comes after the fingerprint
            body = bodies[0][:13] + body[13:]
        try:
            values = storage.loads(resealed(body), model)
        except ValueError as error:
            messages.add(str(error))
            outcomes["refused"] += 1
        else:
            assert [(v.shape, v.dtype) for v in values] == shapes
            outcomes["read"] += 1
    assert min(outcomes.values()) > 100 and len(messages) > 10
    assert all(message and "\n" not in message for message in messages)


def number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


LAYER = nn.Linear(1000, 1000, bias=False)
HEAD = storage.dumps(LAYER)[:13]
BY_HAND = {
    "no tensors": b"\0",
    "too many forms": number(10**9),
    "an unknown form": b"\x01\x02os",
    "a form outside the list": b"\0\x01",
    "a form whose name is no text": b"\x01\x02\xff\xfe",
    "a number without end": b"\xff" * 100,
    "more symbols than weights": b"\x01\x0cSharedWeight\x01\x01\x04code" + number(10**6 + 1) + b"\x02\x00\x00",
    "a huge count": b"\x01\x0cSharedWeight\x01\x01\x04code" + number(2**62) + b"\x02\x00\x00",
    "a huge alphabet": b"\x01\x0cSharedWeight\x01\x01\x04code" + number(10**6) + b"\x01" + number(2**40) + b"\x05",
    "a table that does not sum": b"\x01\x0cSharedWeight\x01\x01\x04code\x08\x01\x03\x02\x54\x01\x00\x00",
    "an alphabet of no words": b"\x01\x0cSharedWeight\x01\x01\x04code\x08\x01" + number(2**16) + b"\x00\x00\x00",
    "symbols of no bits": b"\x01\x0cSharedWeight\x01\x01\x04code" + number(10**6) + b"\x00\x00\x00\x00",
    "a code outside the table": b"\x01\x0cSharedWeight\x01\x01\x04code" + number(10**6) + b"\x02\x05\x00",
    "a missing stream": b"\x01\x0cSharedWeight\x01\x00\x00",
    "more floats than bytes": b"\x01\x0cSharedWeight\x01\x00\x01\x01x" + number(2**60),
    "places outside": b"\x01\x0cPrunedWeight\x01\x01\x03gap\x14\x02"
    + number(65535)
    + b"\x01\x05value\x14"
    + b"\0" * 80,
    "many long streams": b"\x01\x0cSharedWeight\x01"
    + number(255)
    + b"".join(b"\x02" + b"%02x" % i + number(10**6) + b"\x02\x05" for i in range(255))
    + b"\0",
}


@pytest.mark.parametrize("case", BY_HAND)
def test_a_hostile_file_is_refused_with_little_memory(case):
    content = resealed(HEAD + BY_HAND[case])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            storage.loads(content, LAYER)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB: torch's memory is not traced


@pytest.mark.parametrize(
    "content", [b"", b"SLIM", b"SLIM\x01", b"SLIM\x02" + b"\0" * 40, b"\x80\x04\x95cos\nsystem\n", b"PK\3\4"]
)
def test_foreign_files_are_named_as_such(content, tmp_path):
    (tmp_path / "x.slim").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.slim cannot be loaded: it is (no model file|damaged)"):
        storage.load(tmp_path / "x.slim", small())


@pytest.mark.parametrize("compressed", [False, True])
def test_a_failed_load_leaves_the_model_as_it_was(compressed, tmp_path, contents):
    model = deep_compression.share_survivors(small(1), bits=3) if compressed else small(1)
    before, state = bits(model), list(model.state_dict())
    for content in (contents[0][:-1], resealed(contents[0][:-9]), resealed(contents[0][:-8] + b"\0")):
        (tmp_path / "x.slim").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be loaded"):
            storage.load(tmp_path / "x.slim", model)
        assert bits(model) == before and list(model.state_dict()) == state


def test_bytes_after_the_last_tensor_are_counted(contents):
    with pytest.raises(ValueError, match="2 bytes are left over after the last tensor"):
        storage.loads(resealed(contents[0][:-8] + b"\0\0"), small())


@pytest.mark.parametrize(
    "other",
    [models.lenet5(), nn.Linear(784, 300), models.lenet_300_100(classes=9), models.lenet_300_100().half(), nn.ReLU()],
)
def test_another_architecture_is_refused(other):
    with pytest.raises(ValueError, match=f"another architecture than this {type(other).__name__}"):
        storage.loads(storage.dumps(models.lenet_300_100()), other)


def test_a_parametrization_that_the_format_does_not_know_is_refused():
    with pytest.raises(ValueError, match="no CompressedWeight"):
        storage.dumps(nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)))
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "bias", nn.Identity())
    with pytest.raises(ValueError, match=r"the model cannot be saved: Linear computes its bias by Identity\(\)"):
        storage.dumps(layer)


class Keeps(nn.Linear):
    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "value"] = torch.ones(3)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("layer", [Keeps, torch.ao.nn.quantized.dynamic.Linear])
def test_a_layer_that_keeps_values_in_its_own_way_is_refused(layer):
    with pytest.raises(ValueError, match=rf"^0 is a {layer.__name__}, which keeps values in a way of its own: only"):
        storage.dumps(nn.Sequential(layer(2, 2)))


def shares_memory(model):
    model[1].weight.data = model[0].weight.data


def overlaps(model):
    memory = torch.zeros(20)
    model[0].weight.data, model[1].weight.data = memory[:16].view(4, 4), memory[4:].view(4, 4)


def lies_within_itself(model):
    model[1].weight.data = torch.zeros(9).as_strided((4, 4), (1, 1))


def parts_of_one(model):
    memory = torch.zeros(4, 8)
    model[0].weight.data, model[1].weight.data = memory[:, :4], memory[:, 4:]


@pytest.mark.parametrize("change", [shares_memory, overlaps, lies_within_itself])
def test_tensors_in_the_same_memory_are_not_loaded_into(change, tmp_path):
    def two():
        return nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))

    storage.save(two(), tmp_path / "two.slim")
    model = two()
    change(model)
    before = bits(model)
    with pytest.raises(ValueError, match=r"1\.weight share (memory: give each|one place in memory: make it)"):
        storage.load(tmp_path / "two.slim", model)
    assert bits(model) == before
    saved = two()
    storage.save(saved, tmp_path / "two.slim")
    parts_of_one(model)
    assert bits(storage.load(tmp_path / "two.slim", model)) == bits(saved)


def test_compressed_weights_of_another_type_than_float32_are_refused():
    with pytest.raises(ValueError, match=r"weight is torch.float64: .* float32"):
        storage.dumps(scalar_kmeans.share(nn.Linear(4, 4).double(), bits=2))


# -- Atomic ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["encode", "write", "replace"])
def test_a_failing_save_leaves_the_old_file_and_nothing_else(step, tmp_path, monkeypatch):
    path = tmp_path / "model.slim"
    storage.save(small(0), path)
    old = path.read_bytes()

    def fails(*args, **kwargs):
        raise OSError("no space left on device")

    if step == "encode":
        monkeypatch.setattr(storage, "dumps", fails)
    elif step == "replace":
        monkeypatch.setattr(os, "replace", fails)
    else:
        monkeypatch.setattr(storage, "dumps", lambda *a, **k: "text where bytes belong")
    with pytest.raises((OSError, TypeError)):
        storage.save(small(1), path)
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["model.slim"]


def test_saving_over_a_folder_leaves_no_temporary_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        storage.save(small(), tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(("path", "says"), [(".", "'.'"), ("file/below", "file/below'")])
def test_a_path_that_names_no_file_is_in_the_message(path, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"{says}$"):
        storage.save(small(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
