"""What each kind of technique promises, tried on one network of the zoo.

A trial ends in one of three ways. The technique **works**: what its kind promises holds. It is **refused**: one
ValueError that names a layer or the network, before anything was changed. Anything else is a **fault**.
"""

import copy
import importlib
import pkgutil
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lib
from lib import storage, structure, training
from lib.book.zoo import networks
from lib.book.zoo.agreement import Apart
from lib.datasets import Split
from lib.weights import compressed_form, decompress, layers

Call = Callable[[nn.Module, Split], Any]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: ``state`` is "works", "refused" or "fault"; ``says`` what was done, or why not."""

    state: str
    says: str
    seconds: float


class _Refused(Exception):
    """The technique refused the network in the proper way."""


def tried(kind: str, call: str, network: str, *, limit: int = 900) -> Outcome:
    """Try a technique on a network of the zoo.

    kind: a key of ``KINDS``.
    call: a Python expression that uses the technique; it may name ``model``, ``split`` and modules of techniques:
        ``"magnitude.prune(model, density=0.3)"``.
    network: a key of :data:`lib.book.zoo.networks.ZOO`.
    limit: seconds after which the trial is a fault, default 900.

    >>> tried("weights", "sign_quantization.quantize(model)", "CSP block").state
    'works'
    """
    model, split = networks.build(network)
    begin = time.perf_counter()
    try:
        with _at_most(limit), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            state, says = "works", KINDS[kind](model, split, _compiled(call))
    except _Refused as refusal:
        state, says = "refused", str(refusal)
    except Exception as error:  # any other error is what a user would see
        state, says = "fault", f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Outcome(state, says, time.perf_counter() - begin)


def _compiled(call: str) -> Call:
    """The call as a function that turns a proper refusal into ``_Refused``."""
    code = compile(call, "<catalogue>", "eval")

    def function(model: nn.Module, split: Split) -> Any:
        before = _state(model)
        try:
            return eval(code, dict(modules()), {"model": model, "split": split})  # the catalogue is ours
        except ValueError as error:
            sentence = " ".join(str(error).split())
            names = {*filter(None, dict(model.named_modules())), *dict(model.named_parameters())}
            names |= {type(module).__name__ for module in model.modules()}
            assert any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sentence) for name in names), (
                f"its refusal names no layer: {sentence}"
            )
            assert _same(_state(model), before), f"it changed the model before it refused: {sentence}"
            raise _Refused(sentence) from error

    return function


@cache
def modules() -> dict[str, Any]:
    """The modules of all techniques and what they share, by the last part of their names; ``torch`` and a few more."""
    named: dict[str, Any] = {"torch": torch, "structure": structure, "storage": storage, "copy": copy}
    for module in pkgutil.walk_packages(lib.__path__, "lib."):
        section = module.name.split(".")[1]
        if module.name.count(".") > 1 and not module.ispkg and section not in ("book", "datasets", "coding", "figures"):
            named[module.name.rpartition(".")[2]] = importlib.import_module(module.name)
    return named


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"it did not end within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- kinds --------------------------------------------------------------------------------------------------------


def weights(model: nn.Module, split: Split, call: Call) -> str:
    """Weights are stored in another form: what is read back from a file is equal bit for bit."""
    fresh = copy.deepcopy(model)
    total = len(list(layers(model)))
    model = call(model, split)
    stored = [name for name, layer in layers(model) if compressed_form(layer)]
    assert stored, "no weight is compressed"
    networks.settle(model, split)  # larger weights, such as signs, need new statistics for finite answers
    answers = model(split.images)
    assert answers.isfinite().all(), "an answer is not finite"
    with tempfile.TemporaryDirectory() as folder:
        storage.save(model, Path(folder) / "model", coder="fixed")
        again = storage.load(Path(folder) / "model", fresh)
    assert torch.equal(again(split.images), answers), "the stored network answers differently"
    assert torch.equal(decompress(model)(split.images), answers), "the decompressed network answers differently"
    return f"{len(stored)} of {total} weights"


def scores(model: nn.Module, split: Split, call: Call) -> str:
    """Filters get scores: the network without the lowest ones answers like the one in which they are masked."""
    before = _state(model)
    values = call(model, split)
    assert _same(_state(model), before), "the model is changed"
    named = dict(model.named_modules())
    assert values and all(score.shape == named[name].weight.shape[:1] for name, score in values.items())
    assert not any(score.isnan().any() for score in values.values()), "a score is no number"
    example = split.images[:1]
    groups = structure.groups(model, example)
    masks = structure.keep(values, fraction=0.3, groups=groups, least=1)
    small, masked = structure.shrink(model, masks, example), structure.mask(model, masks, example)
    assert _close(small(split.images), masked(split.images)), "shrunk and masked network differ"
    assert _size(small) < _size(model), "nothing was removed"
    return f"{len(values)} layers scored"


def factorization(model: nn.Module, split: Split, call: Call) -> str:
    """Layers become products of smaller ones: a copy that is not larger and runs, and a row for each layer."""
    before = _state(model)
    small, rows = call(model, split)
    assert _same(_state(model), before), "the model is changed"
    assert small(split.images).shape == model(split.images).shape
    assert rows and _size(small) <= _size(model)
    replaced = [row for row in rows if row.after < row.before]
    assert replaced, "no layer was replaced"
    return f"{len(replaced)} of {len(rows)} layers"


def masks(model: nn.Module, split: Split, call: Call) -> str:
    """Single weights are chosen: a mask for each layer that keeps some and removes some."""
    before = _state(model)
    chosen = call(model, split)
    assert _same(_state(model), before), "the model is changed"
    named = dict(layers(model))
    assert chosen and all(
        mask.dtype == torch.bool and mask.shape == named[n].weight.shape for n, mask in chosen.items()
    )
    kept = sum(int(mask.sum()) for mask in chosen.values()) / sum(mask.numel() for mask in chosen.values())
    assert 0 < kept < 1, f"{100 * kept:.0f} % of the weights are kept"
    return f"{len(chosen)} of {len(named)} weights"


def trained(model: nn.Module, split: Split, call: Call) -> str:
    """The technique trains the network: another network with the same state then gives the same answers."""
    fresh, before = copy.deepcopy(model), model(split.images)
    result = call(model, split)
    model = result if isinstance(result, nn.Module) else model
    answers = model.eval()(split.images)
    assert answers.isfinite().all() and not torch.equal(answers, before), "it has learned nothing"
    twin = call(fresh, split)
    twin = (twin if isinstance(twin, nn.Module) else fresh).eval()
    with torch.no_grad():
        for value in twin.state_dict().values():
            value.zero_()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(split.images), answers), "a network of the same state answers differently"
    return "trained"


def taught(model: nn.Module, split: Split, call: Call) -> str:
    """The network teaches: a student of its shape learns from it, and the network stays as it was."""
    student, before = copy.deepcopy(model), _state(model)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(0.9)
    start = _state(student)
    teaching = call(model, split)
    try:
        training.check_one_answer(student, split.images)
    except ValueError as error:  # the network can teach, but a network of its shape cannot be trained as it is
        raise _Refused(str(error)) from error
    training.fit(student, split, epochs=1, seed=0, learning_rate=1e-4, teaching=teaching)
    assert _same(_state(model), before), "the teacher has changed"
    assert not _same(_state(student), start), "the student has learned nothing"
    assert student(split.images).isfinite().all(), "an answer of the student is not finite"
    return "teaches"


def _flow(model: nn.Module, names: Iterable[str], images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The input and output of each named layer that runs: copies, since later layers may work in place."""
    seen = {}
    hooks = []
    for name in names:

        def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            seen[name] = (inputs[0].clone(), output.clone())

        hooks.append(model.get_submodule(name).register_forward_hook(keep))
    model(images)
    for hook in hooks:
        hook.remove()
    return seen


def signs(model: nn.Module, split: Split, call: Call) -> str:
    """Layers read and hold signs: each layer of bits answers like the simulated one.

    Layers are compared one by one, each on the simulated network's input. A mean over a map may be summed in another
    order; a sign that flips because of it flips others, and in a deep untrained network all of them.
    """
    model = call(model, split)
    networks.settle(model, split)
    readers = [name for name, module in model.named_modules() if isinstance(module, modules()["signs"].Binarized)]
    stored = [name for name, layer in layers(model) if compressed_form(layer)]
    assert stored, "no weight is compressed"
    answers = model(split.images)
    assert answers.isfinite().all(), "an answer is not finite"
    if readers:
        flow = _flow(model, readers, split.images)
        converted = modules()["inference"].convert(model)
        assert converted(split.images).isfinite().all(), "an answer of the network of bits is not finite"
        for name, (read, answered) in flow.items():
            assert _close(converted.get_submodule(name)(read), answered), f"layer {name!r} of bits answers differently"
    return f"{len(stored)} of {len(list(layers(model)))} weights, {len(readers)} layers that read signs"


def integers(model: nn.Module, split: Split, call: Call) -> str:
    """It computes with integers: each part is within one step of the simulated one, also in torch's kernels."""
    before = _state(model)
    simulated = call(model, split)
    assert _same(_state(model), before), "the model is changed"
    said: list[str] = []
    for what, convert in (
        ("in integers", modules()["integer_network"].convert),
        ("with torch's kernels", modules()["torch_kernels"].convert_to_kernels),
    ):
        try:
            converted = convert(simulated)
        except ValueError as error:  # torch's kernels accept fewer networks
            if not said:
                raise _Refused(" ".join(str(error).split())) from error
            said.append(f"the kernels refuse: {' '.join(str(error).split())}")
            continue
        apart = Apart(converted, simulated, split.images).steps
        assert apart, f"nothing is computed {what}"
        part, steps = max(((name, int(steps.max())) for name, steps in apart.items()), key=lambda pair: pair[1])
        assert steps <= 1, f"{what} {part} is {steps} steps away"
        said.append(what)
    return " and ".join(said)


def mask_errors(model: nn.Module, split: Split, call: Call) -> str:
    """The error of a mask is that of the network without the masked filters."""
    example = split.images[:1]
    groups = structure.groups(model, example)
    evaluate, channels = call(model, split)
    mask = torch.arange(channels) % 2 == 0
    small = structure.shrink(model, dict.fromkeys(groups[0].producers, mask), example)
    wrong = (small(split.images).argmax(1) != split.labels).float().mean().item()
    assert abs(evaluate(mask) - wrong) < 1e-6, "the masked network errs as often as the shrunk one does not"
    return f"{len(groups)} groups"


def runtime(model: nn.Module, split: Split, call: Call) -> str:
    """Channels are skipped at run time: with all of them the answers stay, with fewer the cost falls."""
    before, answers = _state(model), model(split.images)
    network = call(model, split).eval()
    assert _same(_state(model), before), "the model is changed"
    network.forced = torch.full((len(network.costs),), network.groups)
    assert _close(network(split.images), answers), "with all channels it answers differently"
    network.forced = torch.ones(len(network.costs), dtype=torch.long)
    cheap = network.multiply_adds(network.forced[None])
    assert network(split.images).isfinite().all() and cheap < network.multiply_adds(
        network.forced[None] * network.groups
    )
    return f"{len(network.costs)} layers decided on"


def approximate(model: nn.Module, split: Split, call: Call) -> str:
    """It computes with fewer bits: its answers are off by at most a tenth of the given network's largest one."""
    before, answers = _state(model), model(split.images)
    computed = call(model, split)(split.images)
    assert _same(_state(model), before), "the model is changed"
    assert (computed - answers).abs().max() <= 0.1 * answers.abs().max(), "its answers are far off"
    return "close answers"


def smaller(model: nn.Module, split: Split, call: Call) -> str:
    """It returns a smaller network that runs, and leaves the given one as it was."""
    before = _state(model)
    small = call(model, split)
    assert _same(_state(model), before), "the model is changed"
    assert small(split.images).isfinite().all() and _size(small) < _size(model)
    return f"{100 * _size(small) / _size(model):.0f} % of the parameters"


KINDS: dict[str, Callable[[nn.Module, Split, Call], str]] = {
    function.__name__: function
    for function in (
        *(weights, scores, factorization, masks, trained, taught),
        *(signs, integers, mask_errors, runtime, approximate, smaller),
    )
}


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max().clamp(min=1e-3))
