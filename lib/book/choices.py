"""The gate on choices: a chapter chooses settings on the validation split, and reports results on the test split.

The gate follows everything that is computed from ``dataset.test`` through the names, containers and functions of a
chapter. Such a value must not pick one of several things: by ``argmin``, by ``min`` or ``sorted`` with a key, by an
inequality that filters, or as the reward of a ``search``. A method called ``truth``, as in :mod:`lib.search.table`,
also returns results on the test split. A line that only shows something, or that the gate mistakes for a choice, is
marked ``# not chosen by test``.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

from lib.book import chapters

SHOWN = "# not chosen by test"
PICKING = {"argmin", "argmax", "nanargmin", "nanargmax"}
KEYED = {"min", "max", "sorted", "sort", "nsmallest", "nlargest"}
SEARCH, REWARD = "search", "evaluate"  # search(space, evaluate, ...), and the name of what rewards it
TRUTH = "truth"  # a method that gives accuracies on the test split
FILLING = {"append", "extend", "add", "insert"}
KEYS = {"keys", "enumerate", "range"}  # a loop over one of these yields no measurement
INEQUALITY = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
SCOPES = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)


def by_test(root: Path) -> tuple[int, list[str]]:
    """No chapter picks anything by a result on the test split.

    root: the book's folder.
    """
    count, wrong = 0, []
    for chapter in chapters.names(root):
        code = "\n".join(cell.source for cell in chapters.notebook(root, chapter).cells if cell.cell_type == "code")
        lines = code.splitlines()
        for picked, name in picks(ast.parse(code)):
            count += 1
            said = any(SHOWN in line for line in lines[picked.lineno - 1 : (picked.end_lineno or 0) + 1])  # or after it
            if name and not said:
                line = " ".join(lines[picked.lineno - 1].split())
                wrong.append(f"chapters/{chapter}.py picks by {name!r}, which holds test results: {line[:80]}")
    return count, wrong


def picks(tree: ast.Module) -> Iterator[tuple[ast.expr, str | None]]:
    """Yield each expression that picks one of several things, with the name that brings test results into it, or None.

    tree: a chapter's code.

    >>> code = "error = [rate(net, dataset.test) for net in nets]; best = nets[np.argmin(error)]"
    >>> [name for _, name in picks(ast.parse(code))]
    ['error']
    """
    given: set[str] = set()
    while True:
        before = len(given)
        given |= _given_below(tree, given)
        if len(given) == before:
            break
    yield from _picks(tree, given)


def _picks(node: ast.AST, given: set[str]) -> Iterator[tuple[ast.expr, str | None]]:
    """The picking expressions below a node; names bound by lambdas and comprehensions hide those outside."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in PICKING and node.args:
            yield node.args[0], _first(node.args[0], given)
        elif name in KEYED and (key := next((word.value for word in node.keywords if word.arg == "key"), None)):
            decides = ast.Tuple([*node.args, key], ast.Load()) if isinstance(key, ast.Attribute | ast.Name) else key
            yield node, _first(_values_of(decides), given)
        elif name == SEARCH:
            rewards = [*node.args[:2][-1:], *(word.value for word in node.keywords if word.arg == REWARD)]
            named = (_first(_values_of(reward), given - _arguments(reward)) for reward in rewards)
            yield node, next(filter(None, named), None)
    inner = given - _arguments(node)
    if isinstance(node, SCOPES):
        for part in getattr(node, "generators", []):
            inner = (inner - set(_names(part.target))) | _looped(part.target, part.iter, inner)
            for condition in part.ifs:
                if any(isinstance(sign, INEQUALITY) for one in ast.walk(condition) for sign in getattr(one, "ops", [])):
                    yield condition, _first(condition, inner)
    for child in ast.iter_child_nodes(node):
        yield from _picks(child, inner)


def _values_of(key: ast.expr) -> ast.expr:
    """What a key function computes: the body of a lambda."""
    return key.body if isinstance(key, ast.Lambda) else key


def _arguments(node: ast.AST) -> set[str]:
    """The names of a function's arguments; none for anything else."""
    return {argument.arg for argument in node.args.args} if isinstance(node, ast.Lambda | ast.FunctionDef) else set()


def _given_below(node: ast.AST, given: set[str]) -> set[str]:
    """The names to which the statements below a node assign test results."""
    inner, found = given - _arguments(node), set[str]()
    for child in ast.iter_child_nodes(node):
        found |= _gives(child, inner) | _given_below(child, inner)
    return found


def _gives(node: ast.AST, given: set[str]) -> set[str]:
    """The names that hold test results once a statement has run."""
    found: set[str] = set()
    if isinstance(node, ast.Assign):
        for target in node.targets:
            found |= _assigned(target, node.value, given)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        found |= _assigned(node.target, node.value, given)
    elif isinstance(node, ast.For):
        found |= _looped(node.target, node.iter, given)
    elif isinstance(node, ast.FunctionDef):
        own = given - _arguments(node)
        returned = [one.value for one in ast.walk(node) if isinstance(one, ast.Return) and one.value]
        found |= {node.name} if any(_first(value, own) for value in returned) else set()
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FILLING:
        found |= {_holder(node.func.value)} - {""} if any(_first(value, given) for value in node.args) else set()
    return found


def _assigned(target: ast.expr, value: ast.expr, given: set[str]) -> set[str]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        pairs = zip(target.elts, value.elts, strict=True)
        return {name for one, other in pairs for name in _assigned(one, other, given)}
    if isinstance(target, ast.Tuple) and isinstance(value, ast.GeneratorExp | ast.ListComp):
        part, *others = value.generators
        if isinstance(part.iter, ast.Tuple) and len(part.iter.elts) == len(target.elts) and not others:
            own = given - set(_names(part.target))  # a, b = (f(s) for s in (held, seen)): one after the other
            made = [own | _assigned(part.target, element, given) for element in part.iter.elts]
            return {_holder(one) for one, names in zip(target.elts, made, strict=True) if _first(value.elt, names)}
    if not _first(value, given):
        return set()
    if isinstance(target, ast.Tuple):
        return set(_names(target))
    return {_holder(target)} - {""}


def _looped(target: ast.expr, iterated: ast.expr, given: set[str]) -> set[str]:
    """The variables of a loop that hold test results, not their keys."""
    if isinstance(iterated, ast.Call):
        name = iterated.func.attr if isinstance(iterated.func, ast.Attribute) else getattr(iterated.func, "id", "")
        if name in KEYS - {"enumerate"}:
            return set()
        if name == "zip" and isinstance(target, ast.Tuple):
            pairs = zip(target.elts, iterated.args, strict=False)
            return {found for one, other in pairs for found in _looped(one, other, given)}
        if name in ("items", "enumerate") and isinstance(target, ast.Tuple):
            return set(_names(target.elts[-1])) if _first(iterated, given) else set()
    elif isinstance(iterated, ast.Name):
        return set()  # a dictionary yields its keys; a list is caught where it is compared by index
    return set(_names(target)) if _first(iterated, given) else set()


def _holder(node: ast.expr) -> str:
    """The name of the variable that an expression is a part of, or ""."""
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Starred):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _first(node: ast.AST, given: set[str]) -> str | None:
    """The first name in an expression that holds test results, ``test`` for the split itself, or None.

    A call with the validation split, or a look-up under its name, counts as measured on that split. ``**options`` are
    settings, not measurements.
    """
    if isinstance(node, ast.Call) and any(_validated(argument) for argument in node.args):
        return None
    if isinstance(node, ast.Subscript) and _validated(node.slice):
        return None
    if isinstance(node, ast.Attribute) and node.attr == "test":
        return "test"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == TRUTH:
        return TRUTH
    if isinstance(node, ast.Name):
        return node.id if node.id in given and not _validated(node) else None
    parts = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.keyword) or child.arg]
    return next((found for child in parts if (found := _first(child, given))), None)


def _validated(node: ast.AST) -> bool:
    """Whether an expression is the validation split, or is named after it."""
    name = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "value", None)
    return isinstance(name, str) and "validation" in name


def _names(node: ast.AST) -> list[str]:
    return [one.id for one in ast.walk(node) if isinstance(one, ast.Name)]


GATES: dict[str, Callable[[Path], tuple[int, list[str]]]] = {"choices": by_test}
