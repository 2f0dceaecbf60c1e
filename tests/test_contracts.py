"""What holds for every function, and for every technique of one kind: a new one is tested by being listed."""

import copy
import importlib
import inspect
import pkgutil
import re
import typing
import warnings
from collections import OrderedDict
from pathlib import Path

import given
import pytest
import torch
import yaml
from torch import nn

import lib
from lib import cache, models, storage, structure, training
from lib.datasets import Split
from lib.weights import PackedWeight, compressed, compressed_form, decompress, layers

PROJECT = Path(__file__).parents[1]
CATALOGUE = yaml.safe_load((PROJECT / "survey" / "techniques.yml").read_text())
KINDS = ("weights", "scores", "factorization", "distiller")
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(lib.__path__, "lib.")
    if module.name.split(".")[1] not in ("__main__", "book")
)


def public_functions() -> dict[str, typing.Any]:
    """``lib.pruning.magnitude.prune`` -> the function; methods of public classes count, inherited ones do not."""
    functions = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for key, value in vars(module).items():
            if key.startswith("_") or getattr(value, "__module__", None) != name:
                continue
            if inspect.isfunction(value):
                functions[f"{name}.{key}"] = value
            elif inspect.isclass(value):
                methods = {k: getattr(v, "__func__", v) for k, v in vars(value).items()}
                functions |= {
                    f"{name}.{key}.{k}": v
                    for k, v in methods.items()
                    if inspect.isfunction(v)
                    and v.__module__ != "typing"  # a protocol's constructor is nobody's
                    and (not k.startswith("_") or k == "__init__")
                }
    return functions


FUNCTIONS = public_functions()


# --- signatures ---------------------------------------------------------------------------------------------------


def catches_all(function) -> bool:
    """Whether it takes named arguments that its signature does not name."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            kind = parameter.annotation
            named = typing.get_origin(kind) is typing.Unpack and typing.is_typeddict(typing.get_args(kind)[0])
            return not (named or isinstance(kind, typing.ParamSpecKwargs))
    return False


def test_no_public_function_takes_any_argument():
    assert FUNCTIONS and [name for name, function in FUNCTIONS.items() if catches_all(function)] == []


def test_a_function_that_takes_any_argument_is_found():
    class Options(typing.TypedDict):
        rate: float

    def bad(**how: object) -> None: ...
    def good(**options: typing.Unpack[Options]) -> None: ...

    assert catches_all(bad) and not catches_all(good)


def bare(function) -> list[str]:
    """Arguments without a type; "return" where what comes back has none."""
    signature = inspect.signature(function)
    names = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and name not in ("self", "cls", "ctx")
    ]
    constructs = function.__name__ == "__init__"
    return names + (["return"] if signature.return_annotation is signature.empty and not constructs else [])


def test_every_public_signature_has_types():
    assert {name: bare(function) for name, function in FUNCTIONS.items() if bare(function)} == {}


# --- verbs --------------------------------------------------------------------------------------------------------


def verbs() -> dict[str, tuple[str, str]]:
    """Verb -> what happens to the model, what comes back: the first table of *Contracts* in CONTRIBUTING.md."""
    text = (PROJECT / "CONTRIBUTING.md").read_text().split("## Contracts")[1].split("The shared tests")[0]
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \| ([^|]+) \|$", text, re.M)
    return {verb: (model, back) for names, model, back in rows for verb in re.findall(r"`(\w+)`", names)}


RETURNS = {  # words of the table -> types that say so
    "the same model": {"Module", "Model", "RuntimeNetwork"},
    "the model to use from now on": {"Module"},
    "the mean loss of each epoch": {"list[float]"},
    "a smaller copy": {"Module"},
    "a smaller copy, and a list of what became of each layer": {"tuple[Module, list[Replaced]]"},
    "a new network, for another arithmetic": {"Module", "GraphModule", "IntegerNetwork"},
    "a larger copy that computes the same": {"Module"},
    "a copy that computes something else": {"Module"},
    "the size of the file in bytes": {"int"},
    "layer name -> (filters,) tensor, larger = keep": {"dict[str, Tensor]"},
    "layer name -> bool tensor, True = keep": {"dict[str, Tensor]", "Masks"},
}


def returned(function) -> str:
    """The type of what a function gives, without the modules that types come from: ``dict[str, Tensor]``."""
    kind = inspect.signature(function).return_annotation
    text = kind.__name__ if inspect.isclass(kind) and not typing.get_args(kind) else str(kind).replace("~", "")
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


def test_a_verb_returns_the_same_thing_everywhere():
    table = verbs()
    assert {"prune", "fit", "scores", "binarize", "load"} < set(table)
    wrong = []
    for name, function in FUNCTIONS.items():
        verb, takes = name.rpartition(".")[2], set(inspect.signature(function).parameters)
        method = name.count(".") > function.__module__.count(".") + 1
        if verb in table and takes & {"model", "network"} and not method:
            accepted = RETURNS[table[verb][1]]
            if returned(function) not in accepted:
                wrong.append(f"{name} gives {returned(function)}: accepted are {', '.join(sorted(accepted))}")
    assert wrong == []


# --- techniques of one kind ---------------------------------------------------------------------------------------


def listed(kind: str) -> list:
    """The techniques of this kind, as parameters: module and call."""
    rows = [row for row in CATALOGUE if row.get("contract", {}).get("kind") == kind]
    return [pytest.param(row["contract"]["call"], id=row["id"]) for row in rows]


def called(call: str, **names):
    """What the catalogue's call gives; it names modules by their last word."""
    modules = {name.rpartition(".")[2]: importlib.import_module(name) for name in MODULES if name.count(".") == 2}
    return eval(call, modules | names)


def test_every_contract_is_of_a_known_kind():
    assert {row["contract"]["kind"] for row in CATALOGUE if "contract" in row} == set(KINDS)


def network() -> nn.Module:
    return given.seeded(models.lenet5).eval()


@pytest.mark.parametrize("call", listed("weights"))
def test_a_form_of_weights_keeps_its_contract(call, tmp_path):
    split, images = given.split(20, 1, 28, 28), given.split(3, 1, 28, 28).images
    first = network()
    model = called(call, model=first, split=split)
    verb = re.findall(r"(\w+)\(", call)[0]
    assert model is first or verbs()[verb][0].startswith("used up")
    stored = {name: compressed_form(layer) for name, layer in layers(model) if compressed_form(layer)}
    assert stored, "no weight is compressed"
    model.eval()
    answers = model(images)
    for name, (form, tensors) in stored.items():
        dense = form(*tensors).detach()
        decoded = type(form).decode(form.encode(*tensors), dense.shape)
        assert torch.equal(decoded, dense) and torch.equal(decoded.signbit(), dense.signbit()), name
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images), answers)
    with torch.no_grad():
        for value in twin.state_dict().values():
            value.zero_()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(images), answers)
    assert storage.save(model, tmp_path / "model") == (tmp_path / "model").stat().st_size
    again = storage.load(tmp_path / "model", called(call, model=network(), split=split)).eval()
    assert torch.equal(again(images), answers)
    assert decompress(model) is model and torch.equal(model(images), answers)
    assert not any(compressed_form(layer) for _, layer in layers(model))


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """All numbers that the model computes with."""
    dense = {name: layer.weight.detach().clone() for name, layer in layers(model)}
    return dense | {n: p.detach().clone() for n, p in decompress(copy.deepcopy(model)).state_dict().items()}


LAYERS_ALONE = ("bnn", "xnor-net", "abc-net", "gxnor-dst")  # they are for layers that may read signs
OF_ANY_WEIGHT = [row for row in listed("weights") if row.id not in LAYERS_ALONE]


@pytest.mark.parametrize("call", OF_ANY_WEIGHT)
def test_a_form_of_weights_keeps_its_contract_in_attention_and_recurrent_layers(call, tmp_path):
    split, images = given.split(20, 1, 28, 28), given.split(3, 1, 28, 28).images
    model = called(call, model=given.seeded(given.Sequences).eval(), split=split).eval()
    packed = {name for name, layer in layers(model) if isinstance(layer, PackedWeight)}
    assert len(packed) == 5 and packed <= {name for name, _, _ in compressed(model)}
    answers, dense = model(images), weights_of(model)
    assert torch.allclose(model(images), answers, atol=1e-5)
    for name, form, tensors in compressed(model):
        weight = dict(layers(model))[name].weight.detach()
        decoded = type(form).decode(form.encode(*tensors), weight.shape)
        assert torch.equal(decoded, weight) and torch.equal(decoded.signbit(), weight.signbit()), name
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for value in twin.state_dict().values():
            value.zero_()
    twin.load_state_dict(model.state_dict())
    assert given.same_state(weights_of(twin), dense) and torch.allclose(twin(images), answers, atol=1e-5)
    storage.save(model, tmp_path / "model")
    again = called(call, model=given.seeded(given.Sequences, seed=1), split=split)
    again = storage.load(tmp_path / "model", again).eval()
    assert given.same_state(weights_of(again), dense) and torch.allclose(again(images), answers, atol=1e-5)
    model.train()(images).square().sum().backward()
    trained = [tensor for _, _, tensors in compressed(model) for tensor in tensors if tensor.requires_grad]
    assert all(tensor.grad is not None for tensor in trained if tensor.numel())
    assert decompress(model) is model and given.same_state(weights_of(model.eval()), dense)
    assert torch.allclose(model(images), answers, atol=1e-5) and not list(compressed(model))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("call", OF_ANY_WEIGHT)
def test_a_form_of_weights_keeps_the_type_or_refuses_it_by_name(call, dtype):
    model = given.seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.LSTM(4, 4), nn.Linear(4, 2))).to(dtype)
    before, raised = given.state(model), None
    try:
        called(call, model=model, split=given.split(4, 1, 8, 8))
    except ValueError as error:
        raised = str(error)
    if raised is None:
        assert list(compressed(model)) and {layer.weight.dtype for _, layer in layers(model)} == {dtype}
        decompress(model)
        assert {value.dtype for value in model.state_dict().values()} == {dtype}
    else:
        assert re.search("layer '.*' ?.*torch", raised) and given.same_state(given.state(model), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("call", listed("weights"))
def test_weights_that_are_not_finite_are_refused_by_name(call, value):
    model = network()
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = value
    before = given.state(model)
    with pytest.raises(ValueError, match="conv2"):
        called(call, model=model, split=given.split(20, 1, 28, 28))
    assert given.same_state(given.state(model), before)


def scored() -> list:
    """Each criterion with each network that it scores: both, where the catalogue does not say ``networks``."""
    rows = [row for row in CATALOGUE if row.get("contract", {}).get("kind") == "scores"]
    return [
        pytest.param(row["contract"]["call"], name, id=f"{row['id']}-{name}")
        for row in rows
        for name in row["contract"].get("networks", ["lenet5", "resnet8"])
    ]


@pytest.mark.parametrize(("call", "name"), scored())
def test_scores_keep_their_contract(call, name):
    model = given.seeded(getattr(models, name))
    shape = (1, 28, 28) if name == "lenet5" else (3, 32, 32)
    split = given.split(12, *shape, labels="in turn")
    model.train()
    model(split.images)  # so that batch norms are not those of a fresh network
    modes = [module.training for module in model.modules()]
    before = given.state(model)
    scores = called(call, model=model, split=split)
    assert given.same_state(given.state(model), before), "the model is left as it was"
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    named = dict(model.named_modules())
    assert scores and all(values.shape == named[name].weight.shape[:1] for name, values in scores.items())
    assert all(not values.isnan().any() for values in scores.values())
    groups = structure.groups(model, split.images[:1])
    masks = structure.keep(scores, fraction=0.3, groups=groups, least=1)
    small = structure.shrink(model, masks, split.images[:1])
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("call", listed("scores"))
def test_scores_of_an_empty_split_are_refused(call):
    with pytest.raises(ValueError, match="the split is empty"):
        called(call, model=network(), split=given.split(0, 1, 28, 28))


@pytest.mark.parametrize("call", listed("factorization"))
def test_a_factorization_keeps_its_contract(call):
    model = network()
    before = given.state(model)
    images = given.split(3, 1, 28, 28).images
    small, rows = called(call, model=model)
    assert given.same_state(given.state(model), before) and small is not model, "the model is left as it was"
    assert small(images).shape == model(images).shape
    named = dict(model.named_modules())
    assert rows and all(row.layer in named for row in rows)
    assert sum(p.numel() for p in small.parameters()) <= sum(p.numel() for p in model.parameters())


TAPS = [("relu1", "relu1"), ("relu2", "relu2")]  # parts of a student and of its teacher: (n, 6, 8, 8) and (n, 8, 4, 4)


def pupil(seed: int = 0, *, classes: int = 4, deep: bool = False) -> nn.Sequential:
    """A student of two convolutions, or a deep teacher of four: images (n, 1, 8, 8) to logits; ``flatten`` embeds."""

    def build() -> nn.Sequential:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (inputs, outputs) in enumerate(((1, 6), (6, 8)), 1):
            parts |= {f"conv{i}": nn.Conv2d(inputs, outputs, 3, padding=1), f"bn{i}": nn.BatchNorm2d(outputs)}
            if deep:
                parts |= {f"act{i}": nn.Tanh(), f"more{i}": nn.Conv2d(outputs, outputs, 3, padding=1)}
            parts |= {f"relu{i}": nn.ReLU(), f"pool{i}": nn.MaxPool2d(2)}
        parts |= {"flatten": nn.Flatten(), "fc": nn.Linear(32, classes)}
        return nn.Sequential(parts)

    return given.seeded(build, seed)


def mentor(classes: int = 4) -> nn.Sequential:
    """A teacher that is sure of what it answers."""
    model = pupil(1, classes=classes, deep=True).eval()
    model.fc.weight.data *= 10
    return model


def lessons() -> Split:
    """Images, with the labels that the teacher gives them."""
    images = given.split(24, 1, 8, 8).images
    with torch.no_grad():
        return Split(images, mentor()(images).argmax(1))


def taught(call: str, student: nn.Module, teacher: nn.Module, epochs: int = 1) -> list[float]:
    """Train the student with the distiller that the catalogue's call makes; what each epoch cost."""
    teaching = called(call, teacher=teacher, taps=TAPS)
    options = {"epochs": epochs, "seed": 0, "learning_rate": 0.01, "batch_size": 8}
    return training.fit(student, lessons(), teaching=teaching, **options)


@pytest.mark.parametrize("call", listed("distiller"))
def test_a_student_learns_and_its_teacher_stays_as_it_was(call):
    student, teacher = pupil(), mentor()
    before, names, random = given.state(teacher), dict(student.named_modules()), torch.get_rng_state()
    start, keys = given.state(student), list(student.state_dict())
    losses = taught(call, student, teacher, epochs=8)
    assert losses[-1] < losses[0] and not given.same_state(given.state(student), start)
    assert given.same_state(given.state(teacher), before), "the teacher is left as it was"
    assert not any(module.training for module in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert dict(student.named_modules()) == names and list(student.state_dict()) == keys
    assert not any(module._forward_hooks for net in (student, teacher) for module in net.modules()), "no hook is left"
    assert torch.equal(torch.get_rng_state(), random), "the global random state is left alone"


@pytest.mark.parametrize("call", listed("distiller"))
def test_a_teacher_in_training_mode_labels_in_evaluation_mode(call):
    students, teachers = [pupil(), pupil()], [mentor(), mentor().train()]
    taught(call, students[0], teachers[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it was in training mode
        taught(call, students[1], teachers[1])
    assert given.equal(*students) and given.equal(*teachers)
    assert len({module.training for module in teachers[1].modules()}) == 1  # its own mode, or an ensemble's


@pytest.mark.parametrize("call", listed("distiller"))
def test_teachers_that_cannot_teach_are_refused_before_the_student_changes(call):
    student, spoiled = pupil().train(), mentor()
    spoiled.conv1.weight.data[0, 0, 0, 0] = float("nan")
    with given.refused(student, "NaN or infinity"):
        taught(call, student, spoiled)
    with given.refused(student, "classes|shape"):
        taught(call, student, mentor(classes=5))
    assert all(module.training for module in student.modules())
    with given.refused(student.eval(), "shares weights"):
        taught(call, student, student)


@pytest.mark.parametrize("call", listed("distiller"))
def test_a_copy_of_the_teacher_has_nothing_left_to_learn(call):
    teacher, split = mentor().double(), Split(lessons().images.double(), lessons().labels)
    teaching, costs, steepest = called(call, teacher=teacher, taps=TAPS), [], []
    for student in (copy.deepcopy(teacher), pupil(2, deep=True).double().eval()):
        with teaching.lesson(student, split, augmented=True) as lesson:
            cost = lesson(student(split.images), split.labels, split.images, torch.arange(len(split)))
            cost.backward()
        costs.append(cost.item())
        steepest.append(max(p.grad.abs().max().item() for p in student.parameters() if p.grad is not None))
    assert steepest[1] > 0
    assert steepest[0] <= 1e-9 * steepest[1] or costs[0] < costs[1]  # the labels of a term also have a gradient


@pytest.mark.parametrize("call", listed("distiller"))
def test_what_a_teacher_taught_is_cached(call, tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    found = []
    for teacher in (mentor(), mentor(), pupil(3, deep=True).eval()):
        teaching = called(call, teacher=teacher, taps=TAPS)
        options = {"split": lessons(), "epochs": 1, "seed": 0, "learning_rate": 0.01}
        found.append(cache.cached(training.fit, pupil(), teaching=teaching, **options))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert given.equal(found[0], found[1]) and not given.equal(found[0], found[2])
