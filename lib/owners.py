"""Which modules read a layer's weight instead of calling the layer: its hooks never fire, and it must keep its weight.

torch's ``TransformerEncoderLayer`` hands ``linear1.weight`` to a fast kernel, and attention ``out_proj.weight`` to a
function. No list of such classes is complete, so :func:`reads` looks at the code of the modules around a layer.
"""

import dis
from collections.abc import Iterator
from functools import cache
from types import CodeType

from torch import nn
from torch.nn.utils import parametrize

Path = tuple[str, ...]


def reads(model: nn.Module, name: str) -> dict[str, str]:
    """Return what the modules around a layer read from it in their forward pass: attribute -> the class that reads it.

    model: any network.
    name: of a layer, as in ``model.named_modules()``.

    It finds ``self.fc.weight`` in ``forward``, and in the methods and properties that ``forward`` uses. It does not
    find a layer that is first taken from a list, or put into another variable.

    >>> reads(nn.TransformerEncoderLayer(4, 2), "linear1")
    {'weight': 'TransformerEncoderLayer', 'bias': 'TransformerEncoderLayer'}
    """
    read: dict[str, str] = {}
    parts = tuple(name.split(".")) if name else ()
    for depth in reversed(range(len(parts))):  # the nearest owner first
        owner = model.get_submodule(".".join(parts[:depth]))
        kind, place = parametrize.type_before_parametrizations(owner), parts[depth:]
        for path in _paths(kind):
            if path[: len(place)] == place and len(path) > len(place):
                read.setdefault(path[len(place)], kind.__name__)
    return read


@cache
def _paths(kind: type[nn.Module]) -> list[Path]:
    """Every ``self.a.b`` in the forward pass of a class, as ("a", "b")."""
    seen: dict[str, None] = {"forward": None}
    paths: dict[Path, None] = {}
    for method in (waiting := ["forward"]):  # it grows while the loop runs
        found = getattr(kind, method, None)
        code = getattr(found.fget if isinstance(found, property) else found, "__code__", None)
        for path in _of(code) if isinstance(code, CodeType) else ():
            paths[path] = None
            if path[0] not in seen:
                seen[path[0]] = None
                waiting.append(path[0])
    return list(paths)


def _of(code: CodeType, me: str = "") -> Iterator[Path]:
    me = me or (code.co_varnames[0] if code.co_varnames else "")
    path: list[str] | None = None
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and path is not None:
            path.append(step.argval)
        elif step.opname not in ("CACHE", "EXTENDED_ARG"):
            if path:
                yield tuple(path)
            loaded = step.argval[-1] if isinstance(step.argval, tuple) else step.argval  # an instruction that loads two
            path = [] if step.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and loaded == me else None
    for inner in code.co_consts:  # a lambda or a comprehension, which reads the same self
        if isinstance(inner, CodeType):
            yield from _of(inner, me)
