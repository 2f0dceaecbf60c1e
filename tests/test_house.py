"""The house keeps its shape: imports go down only, a technique is whole, a chapter has its form."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import jupytext
import pytest
import yaml

import lib
from lib.book import chapters

PROJECT = Path(__file__).parents[1]
LIB = PROJECT / "lib"
FOUNDATION = {"datasets", "coding", "figures", "structure", "search"}  # folders on which every section may stand
BOOK = "book"  # what takes a chapter from its source to a page: no chapter and no technique imports it
RECIPES = "recipes"  # what puts techniques of several sections together: chapters and commands alone import it
SECTIONS = {path.name for path in LIB.iterdir() if (path / "__init__.py").exists()} - FOUNDATION - {BOOK, RECIPES}
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def imported(text: str) -> Iterator[str]:
    """Every module that a source imports, with what it takes from it: ``lib.pruning.magnitude``."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written from the top: from lib import ..."
            yield from (f"{node.module}.{name.name}" for name in node.names)


def of_lib(text: str) -> set[str]:
    """The files and packages of lib that a source imports, by their name below lib."""
    return {name.split(".")[1] for name in imported(text) if name.split(".")[0] == "lib" and "." in name}


def misplaced(name: str, text: str) -> set[str]:
    """What the file ``name`` of lib imports although it stands above it, or beside it."""
    if name == "__main__.py" or name.startswith(f"{BOOK}/"):
        return set()
    own = {name.split("/")[0]} if "/" in name else set()
    below = SECTIONS if own == {RECIPES} else set()
    return of_lib(text) & ((SECTIONS | {BOOK, RECIPES}) - own - below)


FILES = sorted(path.relative_to(LIB).as_posix() for path in LIB.rglob("*.py"))


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down_only(name):
    assert misplaced(name, (LIB / name).read_text()) == set()


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("storage.py", "from lib.pruning import magnitude", {"pruning"}),
        ("storage.py", "import lib.pruning.magnitude", {"pruning"}),
        ("storage.py", "def f():\n    from lib import quantization", {"quantization"}),
        ("storage.py", "from lib.book import build", {"book"}),  # its hash would miss what the kernel imports
        ("coding/gaps.py", "from lib.pruning import magnitude", {"pruning"}),
        ("pruning/magnitude.py", "from lib.quantization import optimal_kmeans", {"quantization"}),
        ("pruning/shared/selection.py", "from lib.quantization.shared import names", {"quantization"}),
        ("pruning/magnitude.py", "from lib.book.ledger import judge", {"book"}),
        ("pruning/magnitude.py", "from lib.recipes import methods", {"recipes"}),
        ("storage.py", "from lib.recipes.costs import measured", {"recipes"}),
        ("recipes/methods.py", "from lib.pruning import magnitude\nfrom lib.quantization import affine", set()),
        ("recipes/methods.py", "from lib.book import ledger", {"book"}),
        ("pruning/magnitude.py", "from lib.pruning.shared import selection\nfrom lib.coding import gaps", set()),
        ("book/build.py", "from lib.book import gates\nfrom lib.binarization.shared import kernels", set()),
    ],
)
def test_an_import_that_goes_up_is_found(name, text, found):
    assert misplaced(name, text) == found


PRIVATE = re.compile(r"_(?!_)")


@pytest.mark.parametrize("folder", ["lib", "chapters", "benchmarks"])
def test_no_private_name_is_imported_or_shown(folder):
    read = 0
    for path in sorted((PROJECT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        modules = {
            alias.asname or alias.name.split(".")[-1]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            and (getattr(node, "module", None) or node.names[0].name).split(".")[0] == "lib"
            for alias in node.names
        }
        names = [name.split(".") for name in imported(path.read_text()) if name.split(".")[0] == "lib"]
        reached = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
        }
        read += len(names)
        private = {part for parts in names for part in parts if PRIVATE.match(part)} | {
            name for name in reached if PRIVATE.match(name)
        }
        assert not private, f"{path.relative_to(PROJECT)} takes {', '.join(sorted(private))} from another file"
    assert read


def test_a_chapter_imports_packages_and_lib_only():
    listed = {
        re.match(r"[\w.-]+", line)[0].lower()
        for line in (PROJECT / "requirements.in").read_text().split("\n# Tools")[0].splitlines()
        if line and line[0] != "#"
    }
    installed = {"sklearn": "scikit-learn", "yaml": "pyyaml"}
    checked = 0
    for chapter in chapters.names(PROJECT):
        for name in imported((PROJECT / "chapters" / f"{chapter}.py").read_text()):
            top = name.split(".")[0]
            checked += 1
            assert top == "lib" or top in sys.stdlib_module_names or installed.get(top, top).lower() in listed, name
            assert name.split(".")[:2] != ["lib", BOOK], name
    assert checked > 0


def test_chapters_have_one_form():
    toc = (PROJECT / "_toc.yml").read_text()
    names = chapters.names(PROJECT)
    assert names
    for name in names:
        text = (PROJECT / "chapters" / f"{name}.py").read_text()
        notebook = jupytext.reads(text, fmt="py:percent")
        assert dict(notebook.metadata["kernelspec"]) == KERNELSPEC, name
        tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        assert len(tagged) == 1, name
        lines = tagged[0].source.splitlines()
        for part in ast.parse(tagged[0].source).body:
            said = "".join(lines[part.lineno - 1 : part.end_lineno])
            assert "#" in said, f"{name}: the parameter {said!r} has no comment that says what it is"
        assert notebook.cells[0].cell_type == "markdown", name
        assert re.search(r"^# ", notebook.cells[0].source, re.M), name
        assert f"file: chapters/{name}\n" in toc, f"{name} stands not in _toc.yml"
        assert not re.search(r"^\s*[!%]", "\n".join(c.source for c in notebook.cells if c.cell_type == "code"), re.M), (
            name
        )
    assert set(re.findall(r"file: chapters/(\w+)", toc)) == set(names)


def test_every_profile_names_what_is_there():
    names = sorted(path.stem for path in (PROJECT / "profiles").glob("*.yml"))
    assert names == ["fashion", "full", "quick", "standard"]
    for name in names:
        chapters.profile_settings(PROJECT, name)
    assert not set(chapters.profile_settings(PROJECT, "quick")) - {
        "limits"
    }  # the parameters cells are the quick profile


def faults(row: dict, root: Path = PROJECT) -> list[str]:
    """What a technique of the catalogue lacks of the parts that belong to its row, in the order of CONTRIBUTING.md."""
    missing = [f"no {part} at {row[part]}" for part in ("test", "file") if not (root / row[part]).is_file()]
    source = root / "chapters" / f"{row['chapter']}.py"
    if not source.is_file() or f"# ({row['anchor']})=" not in source.read_text():
        missing.append(f"no part ({row['anchor']})= in the chapter {row['chapter']}")
    file = root / "survey" / "claims" / f"{row['chapter']}.yml"
    held = {claim["id"] for claim in yaml.safe_load(file.read_text())} if file.is_file() else set()
    if not row["claims"] or not set(row["claims"]) <= held:
        missing.append(f"claims {row['claims']}, and survey/claims/{row['chapter']}.yml holds {sorted(held)}")
    return missing


def catalogue() -> list[dict]:
    return yaml.safe_load((PROJECT / "survey" / "techniques.yml").read_text())


def test_every_technique_is_whole():
    assert catalogue()
    assert {row["id"]: faults(row) for row in catalogue()} == {row["id"]: [] for row in catalogue()}


def test_every_file_of_a_section_is_a_technique_or_shared():
    files = {f"lib/{name}" for name in FILES if "/" in name and Path(name).name != "__init__.py"}
    files = {file for file in files if file.split("/")[1] in SECTIONS}
    shared = {file for file in files if "/shared/" in file}
    assert shared
    assert files - shared == {row["file"] for row in catalogue()}


def test_lib_says_what_each_of_its_parts_is_for():
    parts = {path.name + "/" * path.is_dir() for path in LIB.iterdir() if not path.name.startswith("__")}
    named = set(re.findall(r"^(\w+(?:\.py|/)) +\S", lib.__doc__, re.M)) - {"__main__.py"}
    assert named == parts


def test_every_shared_file_has_a_test_at_its_own_place():
    shared = [name for name in FILES if "/shared/" in name and Path(name).name != "__init__.py"]
    assert shared
    for name in shared:
        test = PROJECT / "tests" / Path(name).parent / f"test_{Path(name).name}"
        assert test.is_file(), f"{test.relative_to(PROJECT)} is missing"


def test_test_names_have_at_most_twelve_words():
    names = [
        name
        for path in (PROJECT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    ]
    assert names and [name for name in names if len(name.removeprefix("test_").split("_")) > 12] == []


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("file", "lib/no.py", "no file at lib/no.py"),
        ("test", "tests/no.py", "no test at tests/no.py"),
        ("chapter", "no", "no part (sec-one)= in the chapter no"),
        ("anchor", "sec-no", "no part (sec-no)= in the chapter one"),
        ("claims", [], "claims []"),
        ("claims", ["C2.3-02"], "claims ['C2.3-02'], and survey/claims/one.yml holds ['C2.3-01']"),
    ],
)
def test_a_technique_that_is_not_whole_is_found(tmp_path, part, value, says):
    row = {"file": "one.py", "test": "test_one.py", "chapter": "one", "anchor": "sec-one", "claims": ["C2.3-01"]}
    (tmp_path / "chapters").mkdir()
    (tmp_path / "survey" / "claims").mkdir(parents=True)
    (tmp_path / "one.py").touch()
    (tmp_path / "test_one.py").touch()
    (tmp_path / "chapters" / "one.py").write_text("# %% [markdown]\n# (sec-one)=\n# ## One\n")
    (tmp_path / "survey" / "claims" / "one.yml").write_text("- id: C2.3-01\n")
    assert faults(row, tmp_path) == []
    assert any(says in fault for fault in faults(row | {part: value}, tmp_path))


def test_a_technique_added_by_the_checklist_is_whole(tmp_path):
    row = {
        "file": "lib/pruning/toy.py",
        "test": "tests/pruning/test_toy.py",
        "chapter": "toys",
        "anchor": "sec-toy",
        "claims": ["C2.3-99"],
    }
    parts = {  # in the order of CONTRIBUTING.md: what it adds, and what is said before
        "tests/pruning/test_toy.py": ("from lib.pruning import toy\n", "no test at tests/pruning/test_toy.py"),
        "lib/pruning/toy.py": ("def scores(): ...\n", "no file at lib/pruning/toy.py"),
        "chapters/toys.py": ("# %% [markdown]\n# (sec-toy)=\n# ## Toy\n", "no part (sec-toy)= in the chapter toys"),
        "survey/claims/toys.yml": ("- id: C2.3-99\n", "claims ['C2.3-99'], and survey/claims/toys.yml holds []"),
    }
    said = [what for _, what in parts.values()]
    for i, (name, (content, _)) in enumerate(parts.items()):
        assert faults(row, tmp_path) == said[i:]
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert faults(row, tmp_path) == []
    text = (PROJECT / "CONTRIBUTING.md").read_text().split("## A technique")[1].split("\n## ")[0]
    steps = re.findall(r"^\d\. \*\*(.+?)\*\*", text, re.M)
    assert steps == ["The row", "The test", "The file", "The part of a chapter", "The claims"]
