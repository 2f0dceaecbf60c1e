"""The import closure against what Python really loads; a digest of code that ignores words and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from lib import imports

LIB = Path(imports.__file__).parent


def package(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "lib" / name).write_text(text)
    return root / "lib"


FILES = {
    "__init__.py": "",
    "one.py": "from lib import two",
    "two.py": "def f():\n    from lib.three import four",
    "three/__init__.py": "import lib.five",
    "three/four.py": "from . import six\nfrom .seven import thing\nfrom .. import eight",
    "three/six.py": "",
    "three/seven.py": "thing = 1",
    "three/unused.py": "",
    "five.py": "import typing\nif typing.TYPE_CHECKING:\n    from lib import nine\nelse:\n    import lib.ten",
    "eight.py": "import os.path, json",
    "nine.py": "",
    "ten.py": "from lib import one",
    "book.py": "",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import numpy", set()),
        ("import lib", {"__init__"}),
        ("import lib.eight as e", {"__init__", "eight"}),
        ("from lib.three import seven", {"__init__", "five", "ten", "one", "two", "three/__init__", "three/four"}),
        ("def f():\n    from lib import eight", {"__init__", "eight"}),
        ("if TYPE_CHECKING:\n    from lib import one\nelse:\n    from lib import eight", {"__init__", "eight"}),
        ("from lib.three.seven import thing", {"three/seven"}),
        ("import libx.one, mylib", set()),
    ],
)
def test_a_closure_is_what_the_imports_lead_to(tmp_path, text, expected):
    folder = package(tmp_path, FILES)
    found = {path.relative_to(folder).with_suffix("").as_posix() for path in imports.closure(folder, [text])}
    if "three" in text:
        ring = {"__init__", "five", "ten", "one", "two", "eight", *(f"three/{n}" for n in ("__init__", "four", "six"))}
        assert found == {*ring, "three/seven"} >= expected
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("from lib import nothing", "lib.nothing is imported, and lib has no nothing"),
        ("import lib.three.no.more", "lib has no three.no"),
        ("def (", "code that is not Python"),
    ],
)
def test_an_import_that_leads_nowhere_is_refused(tmp_path, text, says):
    with pytest.raises(ValueError, match=says):
        imports.closure(package(tmp_path, FILES), [text])


LOADS = """
import importlib, os, sys, torch, numba, matplotlib.figure  # once for all: loading them is most of the time
for name in sys.argv[1:]:
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        continue
    importlib.import_module(f"lib.{name}")
    print(name, *[other for other in sys.modules if other.split(".")[0] == "lib"], flush=True)
    break
"""
LOADED = ["storage", "training", "quantization.deep_compression", "pruning.thinet", "figures"]


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """The modules of lib that Python has after the import of one of them, each in a process of its own."""
    command = [sys.executable, "-c", LOADS, *LOADED]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=LIB.parent).stdout
    return {name: set(modules) for name, *modules in map(str.split, said.splitlines())}


@pytest.mark.parametrize("name", LOADED)
def test_a_closure_holds_all_that_python_loads(name, loaded):
    static = imports.modules(LIB, imports.closure(LIB, [f"import lib.{name}"]))
    assert {f"lib.{name}"} <= loaded[name] <= static
    assert not static & {"lib.book", "lib.book.run", "lib.book.chapters"}


SOURCE = '''"""A module."""

import os


def f(x, *, y=1):
    """What it does."""
    # and why
    if x:
        raise ValueError(f"x is {x}, " + "not 0") from None
    return [x, y, f"{x:>{y}}"]


class A:
    """Words."""

    b: int = 3
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"""A module."""', "", True),
        ('"""What it does."""', '"""Other words."""', True),
        ("    # and why\n", "", True),
        ("[x, y, f", "[\n        x,\n        y, f", True),
        ('    """Words."""\n\n', "", True),
        ("y=1", "y=2", False),
        ("y=1", "y=1.0", False),
        ("y=1", "y=True", False),
        ("*, y", "y", False),
        (":>{y}", ":<{y}", False),
        ("b: int = 3", "b = 3", False),
        ("import os", "import os as os2", False),
        ("return", "yield", False),
        ('"""A module."""', 'x = """A module."""', False),
        ("x is {x}, ", "{x}: ", True),
        ("not 0", "", True),
        ("x is {x}", "x is {y}", False),
        ("x is {x}", "x is {x!r}", False),
        ("raise ValueError", "raise TypeError", False),
        ("from None", "", False),
        ("if x:", "if y:", False),
        ('raise ValueError(f"x is {x}, " + "not 0")', 'raise (f"x is {x}, " + "not 0")', False),
    ],
)
def test_a_digest_of_code_ignores_words_alone(old, new, same):
    assert old in SOURCE
    assert (imports.code(SOURCE.replace(old, new)) == imports.code(SOURCE)) == same


def test_text_that_is_no_code_counts_as_it_stands():
    assert imports.code("%matplotlib inline") != imports.code("%matplotlib  inline")


def test_a_closure_of_files_is_the_closure_of_their_code(tmp_path):
    folder = package(tmp_path, FILES)
    outside = tmp_path / "code.py"
    outside.write_text("from lib.three.seven import thing")
    files = [folder / "one.py", outside]
    assert imports.closure_of_files(folder, files) == imports.closure(folder, [path.read_text() for path in files])
    outside.write_text("import lib.eight  # a file that changed is read again")
    assert folder / "three" / "seven.py" not in imports.closure_of_files(folder, [outside])
