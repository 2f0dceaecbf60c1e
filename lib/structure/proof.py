"""Does the smaller network compute what the whole one computes when nothing reads the removed channels?

The whole network runs with its removed filters writing values that must not matter: NaN, which only a comparison can
lose on the way, and noise. What reaches the layers that read the channels is checked, and then replaced by zeros. So
nothing here relies on where a trace says that the channels go:

- a layer may read NaN only in the columns of the removed channels; otherwise channels are moved, mixed or split on the
  way;
- the smaller network must run, so it lacks as many columns as channels; with the first check, these are the right ones;
- the outputs must be those of the smaller network, whatever the removed filters write; otherwise an output contains the
  channels, or something on the way counts, averages or compares them.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lib.structure.apart import copied
from lib.structure.copies import Cut
from lib.structure.probe import Answers, Probe, Twin

SEVERAL = 8  # inputs, if one is not enough


class _Differs(Exception):
    """Why the networks differ; ``rounding`` says whether rounding may be the cause."""

    def __init__(self, reason: str, *, rounding: bool = False) -> None:
        super().__init__(reason)
        self.rounding = rounding


def difference(
    model: nn.Module, small: nn.Module, cuts: Sequence[Cut], example: Tensor, *, masked: nn.Module | None = None
) -> str:
    """Compare a smaller network with the whole one, in evaluation and in training mode.

    Training mode means batch statistics, but neither dropout nor stochastic depth. If the whole network cannot run in
    training mode, only evaluation mode is compared. Outputs agree if they differ by less than 1e-4 of the largest
    value. A larger difference may be rounding that statistics of few values magnify, so it is measured again in
    float64, where 1e-6 is allowed. A network that cannot run in float64 is allowed 1e-2, or more if its type is coarse.

    model: the whole network; it and the global random states are left as they were.
    small: the same without the removed channels; left as it was.
    cuts: groups, each with its removed channels.
    example: inputs of the network, (n, ...), of which one or up to eight are used. Random ones are drawn instead if all
        values are equal or one is not finite, since such inputs would hide differences. If the networks differ,
        parameters that are not finite and NaN in buffers are set to zero, and they are compared again.
    masked: a copy with zeros in place of the removed channels, to be compared as well. Default: none.

    Returns why the smaller network is not the whole one without these channels; "" if it is.

    >>> from lib.structure.copies import smaller
    >>> from lib.structure.group import Group
    >>> cuts = [(Group(4, ("0",), {}, {"2": torch.arange(4)[:, None]}), torch.arange(4) < 2)]
    >>> for between in (nn.ReLU(), nn.Softmax(1)):
    ...     model = nn.Sequential(nn.Linear(3, 4), between, nn.Linear(4, 2))
    ...     print(difference(model, smaller(model, cuts), cuts, torch.zeros(1, 3)) or "no difference")
    no difference
    other things that layer '2' reads depend on them
    """
    networks = [network for network in (model, small, masked) if network is not None]
    reason, rounding = _reason(networks, cuts, example, 1e-4)
    if reason and (finite := [_finite(network) for network in networks]) != networks:
        networks = finite
        reason, rounding = _reason(networks, cuts, example, 1e-4)
    if not rounding:
        return reason
    try:
        double = example.double() if example.is_floating_point() else example
        doubled = [copy.deepcopy(network).double() for network in networks]
        Twin(doubled[0], ()).answers(_inputs(double, 1), training=False)
    except Exception:  # it only runs in its own type
        steps = [torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()]
        return _reason(networks, cuts, example, max(1e-2, 64 * max(steps)))[0]
    return _reason(doubled, cuts, double, 1e-6)[0]


def _reason(networks: Sequence[nn.Module], cuts: Sequence[Cut], example: Tensor, tolerance: float) -> tuple[str, bool]:
    """Why the networks differ, and whether rounding may be the cause."""
    try:
        _compare(networks, cuts, example, tolerance)
    except _Differs as difference:
        return str(difference), difference.rounding
    return "", False


def _compare(networks: Sequence[nn.Module], cuts: Sequence[Cut], example: Tensor, tolerance: float) -> None:
    model, small, *masked = networks
    probe = Probe(model, cuts)
    others = [Twin(small, probe.readers), *(Twin(network, ()) for network in masked)]

    def run(training: bool, noise: bool = False) -> None:
        probe.noise = noise
        inputs, found = _run(lambda inputs: probe.answers(inputs, training), example)
        if probe.outside:
            raise _Differs(f"other things that layer {probe.outside[0]!r} reads depend on them")
        for other in others:
            _agree(found, other, inputs, training, tolerance)

    run(training=False)
    try:  # comparisons take NaN for a small value, but they notice noise
        run(training=True, noise=True)
    except _Differs:
        if _runs(model, example):
            raise
        run(training=False, noise=True)
    for name in (name for group, _ in cuts for name in group.producers if name not in probe.wrote):
        raise _Differs(f"layer {name!r} does not run: its owner reads its weight without calling it")


def _run(call: Callable[[Tensor], Answers], example: Tensor) -> tuple[Tensor, Answers]:
    """Run one input, or several if one fails, and return inputs and answers.

    Batch norm of one value is an error in training mode. It turns two values into plus and minus one, so that rounding
    may decide what follows; hence more than two.
    """
    try:
        inputs = _inputs(example, 1)
        return inputs, call(inputs)
    except Exception:
        try:
            inputs = _inputs(example, SEVERAL)
            return inputs, call(inputs)
        except Exception as error:  # a network may raise anything
            raise _Differs(f"the network cannot run with other values in them: {_line(error)}") from error


def _runs(model: nn.Module, example: Tensor) -> bool:
    try:
        _run(lambda inputs: Twin(model, ()).answers(inputs, training=True), example)
    except _Differs:
        return False
    return True


def _agree(found: Answers, other: Twin, inputs: Tensor, training: bool, tolerance: float) -> None:
    """Raise _Differs if another network does not give the answers that were found."""
    mode = f"in {'training' if training else 'evaluation'} mode"
    if not found.outputs:
        raise _Differs("the network returns no tensors")
    try:
        result = other.answers(inputs, training)
    except Exception as error:  # a network may raise anything
        raise _Differs(f"without them the network cannot run {mode}: {_line(error)}") from error
    if [value.shape for value in result.outputs] != [value.shape for value in found.outputs]:
        raise _Differs("they are channels of an output")
    pairs = list(zip(result.outputs, found.outputs, strict=True))
    if other.readers:
        pairs += zip(result.read, found.read, strict=False)
    gap = max(_gap(a, b) for a, b in pairs)
    if gap == torch.inf:
        raise _Differs("an output depends on them")
    if gap > tolerance:
        raise _Differs(f"without them the network computes something else {mode}", rounding=True)


def _finite(network: nn.Module) -> nn.Module:
    """The network, or a copy with zeros for values that are not finite: where channels go does not depend on them."""
    instead: dict[int, Tensor] = {}
    for p in network.parameters():
        if p.is_floating_point() and not p.isfinite().all():
            instead[id(p)] = nn.Parameter(p.detach().nan_to_num(0, 0, 0))
    for value in network.buffers():  # infinity is normal there: attention uses it in masks
        if value.is_floating_point() and value.isnan().any():
            instead[id(value)] = value.nan_to_num(0, torch.inf, -torch.inf)
    return copied(network, instead) if instead else network


def _inputs(example: Tensor, n: int) -> Tensor:
    """Inputs like the example, different from each other, and random where the example is constant."""
    x = example[:n].detach()
    if not x.is_floating_point():
        return torch.cat([x, *(x[:1].roll(i, -1) for i in range(1, n))])[:n]
    spread = float(x.double().std(correction=0))
    drawn = torch.randn(n, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
    return torch.cat([x, x[:1] + spread * drawn])[:n] if 0 < spread < torch.inf else drawn


def _gap(a: Tensor, b: Tensor) -> float:
    """The largest difference in units of the largest value; infinity if NaN or infinity are in different places."""
    if not (a.is_floating_point() or a.is_complex()):
        return 0.0 if torch.equal(a, b) else 1.0
    if a.isnan().ne(b.isnan()).any() or a.isinf().ne(b.isinf()).any():
        return torch.inf
    gap = (a - b).nan_to_num(0, 0, 0).abs().max() if a.numel() else torch.zeros(())
    return float(gap / b.nan_to_num(0, 0, 0).abs().max().clamp_min(1e-30)) if gap else 0.0


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
