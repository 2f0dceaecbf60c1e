"""What a result depends on: the files of ``lib`` that code imports, directly or not, and the code without its words.

Imports are read, not run, so a module that is only found by name at run time is missing here; the runner refuses a
chapter in which that happens. Comments, docstrings and the words of an error change no result, so :func:`code` leaves
them out.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = "lib"


def closure(folder: Path, sources: Iterable[str]) -> list[Path]:
    """Return the files of the package that ``sources`` import, directly or not, sorted.

    The packages of a module count with it, since Python runs their ``__init__.py`` first. Imports inside functions
    count, those below ``if TYPE_CHECKING:`` do not.

    folder: of the package ``lib``.
    sources: Python code, each a whole text.

    Raises ValueError for code that is not Python, and for an import of a module that the package does not have.

    >>> folder = Path(__file__).parent
    >>> files = closure(folder, ["from lib import vision"])
    >>> [path.name for path in files], sorted(modules(folder, files))
    (['__init__.py', 'vision.py'], ['lib', 'lib.vision'])
    """
    return _reached(folder, [name for text in sources for name in _names(text)])


def closure_of_files(folder: Path, files: Iterable[Path]) -> list[Path]:
    """Return :func:`closure` of the files' code; each is read again only when it changes.

    folder: of the package ``lib``.
    files: paths of Python code, in UTF-8, in the package or not.

    Raises what :func:`closure` raises.

    >>> folder = Path(__file__).parent
    >>> closure_of_files(folder, [folder / "vision.py"]) == closure(folder, [(folder / "vision.py").read_text("utf-8")])
    True
    """
    return _reached(folder, [name for path in files for name in _names_in_file(path, path.stat().st_mtime_ns, "")])


def _reached(folder: Path, waiting: list[str]) -> list[Path]:
    found: set[Path] = set()
    seen = set(waiting)
    while waiting:
        for path in _files(folder, waiting.pop()):
            if path in found:
                continue
            found.add(path)
            new = set(_names_in_file(path, path.stat().st_mtime_ns, _module(folder, path))) - seen
            seen |= new
            waiting += new
    return sorted(found)


def modules(folder: Path, files: Iterable[Path]) -> set[str]:
    """Return the names under which Python knows files of the package: ``lib.pruning.magnitude``.

    folder: of the package ``lib``.
    files: paths below it; :func:`closure` has an example.
    """
    return {_module(folder, path) for path in files}


def code(text: str) -> str:
    """Return a digest of what Python code does: of its syntax tree without comments, docstrings and layout.

    Nor does it count what an error says, the strings in a ``raise``; which error it is, and when, does count.
    The digest is the same on every Python that can parse the code. Text that is not Python counts character by
    character.

    text: a whole source.

    >>> code("x = 1  # one") == code("x=1"), code("x = 1") == code("x = 2")
    (True, False)
    >>> code("raise ValueError(f'no {x}')") == code("raise ValueError(f'{x} is not accepted')")
    True
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return _sha(text)
    return _sha("\0".join(_tree(tree)))


def code_of_file(path: Path) -> str:
    """Return :func:`code` of a file, which is read again only when it changes.

    path: of the file, in UTF-8.

    >>> code_of_file(Path(__file__)) == code(Path(__file__).read_text("utf-8"))
    True
    """
    return _code_of_file(path, path.stat().st_mtime_ns)


@cache
def _code_of_file(path: Path, changed: int) -> str:
    return code(path.read_text("utf-8"))


def _tree(node: object, raised: bool = False) -> Iterator[str]:
    """The tree as a sequence of words; empty fields are left out, since newer Pythons have more of them.

    node: a node, a list of them, or a value.
    raised: whether it is in a ``raise``, in which strings do not count.
    """
    if raised and isinstance(node, ast.JoinedStr):  # nor does it count between which of its values there are words
        node = [part for part in node.values if isinstance(part, ast.FormattedValue)]
    if raised and isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.Constant("")
    if isinstance(node, ast.AST):
        raised = raised or isinstance(node, ast.Raise)
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                value = value[1:] if ast.get_docstring(node, clean=False) is not None else value
            if value is not None and value != []:
                yield name
                yield from _tree(value, raised)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for part in node:
            yield from _tree(part, raised)
        yield "]"
    else:
        yield f"{type(node).__name__} {node!r}"


@cache
def _names_in_file(path: Path, changed: int, module: str) -> tuple[str, ...]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return tuple(_names(path.read_text("utf-8"), package))


def _names(text: str, package: str = "") -> Iterator[str]:
    """Every name of the package that the code imports, a module or something in one."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"code that is not Python has no imports to read: {error}") from error
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{start}.{name.name}" for name in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == PACKAGE)


def _files(folder: Path, name: str) -> list[Path]:
    """The files that ``import name`` runs: the packages on the way, and the module."""
    place, files = folder, [folder / "__init__.py"]
    parts = name.split(".")[1:]
    for i, part in enumerate(parts):
        place = place / part
        if (place / "__init__.py").is_file():
            files.append(place / "__init__.py")
        elif place.with_suffix(".py").is_file():
            return [*files, place.with_suffix(".py")]
        elif i == len(parts) - 1 and i > 0:  # something in the package before it
            break
        else:
            raise ValueError(f"{name} is imported, and {PACKAGE} has no {'.'.join(parts[: i + 1])}")
    return files


def _module(folder: Path, path: Path) -> str:
    parts = [PACKAGE, *path.relative_to(folder).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
