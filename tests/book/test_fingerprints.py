"""What a run depends on, and nothing else, changes its fingerprint."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_book import PROJECT

from lib.book import chapters, fingerprints, warm


def test_the_fingerprint_follows_all_that_a_run_depends_on(small_book, add_chapter, monkeypatch):
    add_chapter("reads", "1", survey="needs: [passes]")
    data = small_book / "data" / "letters"
    data.mkdir(parents=True)
    (data / "a.txt").write_text("a")
    shutil.copytree(chapters.LIB, small_book / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    source = small_book / "chapters" / "passes.py"
    source.write_text(source.read_text().replace('data = "none"', 'data = "letters"'))
    seen = [
        (
            fingerprints.fingerprint(small_book, "passes", "quick"),
            fingerprints.fingerprint(small_book, "reads", "quick"),
        )
    ]

    def changes(*parts: str) -> None:
        now = (
            fingerprints.fingerprint(small_book, "passes", "quick"),
            fingerprints.fingerprint(small_book, "reads", "quick"),
        )
        assert [name for name in now[0] if now[0][name] != seen[-1][0][name]] == list(parts)
        assert (now[1]["needs_sha256"] != seen[-1][1]["needs_sha256"]) == bool(parts)
        seen.append(now)

    (data / "a.txt").write_text("b")
    changes("data_sha256")
    source.write_text(source.read_text() + "\n# %%\n1\n")
    changes("code_sha256")
    source.write_text(source.read_text().replace("The answer is", "We get"))
    changes()  # words are put on the page without another run
    (small_book / "requirements.lock").write_text("numpy==1")
    changes("lock_sha256")
    (small_book / "requirements.in").write_text("numpy\n# Tools: no run uses them\nruff\n")
    (small_book / "requirements.lock").write_text("numpy==1\nruff==3")
    changes()  # nor a tool
    (small_book / "profiles" / "quick.yml").write_text("passes: {terms: 4}")
    changes("parameters")
    with (small_book / "lib" / "evidence.py").open("a") as file:
        file.write("# more\n")
    changes("lib_sha256")
    with (small_book / "lib" / "pruning" / "thinet.py").open("a") as file:
        file.write("more = 1\n")
    changes()  # the chapter imports none of it
    shutil.move(data, small_book / "elsewhere" / "letters")
    monkeypatch.setenv("SURVEY_DATA", str(small_book / "elsewhere"))
    changes()  # the same data at another place


def copy_sources(root: Path) -> Path:
    """The real book's chapters, profiles, lock and lib."""
    for name in ("chapters", "profiles", "lib"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "requirements.lock", root)
    return root


def test_an_edit_reruns_the_chapters_that_import_the_file_and_no_others(tmp_path, monkeypatch):
    monkeypatch.delenv("SURVEY_DATA", raising=False)
    root = copy_sources(tmp_path / "book")
    names = chapters.names(root)

    def stamps() -> dict[str, dict]:
        return {name: fingerprints.fingerprint(root, name, "standard") for name in names}

    before = stamps()

    def reruns(path: Path, text: str) -> set[str]:
        old = path.read_text() if path.exists() else None
        path.parent.mkdir(exist_ok=True)
        path.write_text((old or "") + text)
        now = stamps()
        if old is None:
            path.unlink()
        else:
            path.write_text(old)
        return {name for name in names if now[name] != before[name]}

    def importing(module: str, names: set[str]) -> set[str]:  # by another way than the code's: what Python loads
        code = (
            f"import ast, os, sys, {', '.join(warm.LIBRARIES)}\n"  # once: loading them is most of the time
            "sys.path.insert(0, sys.argv[2])\n"
            "for path in sys.argv[3:]:\n"
            "    if child := os.fork():\n"
            "        assert os.waitpid(child, 0)[1] == 0\n"
            "        continue\n"
            "    for node in ast.walk(ast.parse(open(path).read())):\n"
            "        if isinstance(node, ast.Import | ast.ImportFrom) and 'lib' in ast.unparse(node):\n"
            "            exec(ast.unparse(node))\n"
            "    if sys.argv[1] in sys.modules:\n"
            "        print(os.path.basename(path))\n"
            "    break\n"
        )
        paths = [root / "chapters" / f"{name}.py" for name in sorted(names)]
        command = [sys.executable, "-c", code, module, root, *paths]
        plain = os.environ | {"NUMBA_DISABLE_JIT": "1"}  # a copy of lib would be compiled anew
        loaded = subprocess.run(command, env=plain, capture_output=True, text=True, check=True).stdout
        return {Path(line).stem for line in loaded.splitlines()}

    tried = {"pruning", "pruning_comparison", "quantization"}
    edited = reruns(root / "lib" / "pruning" / "thinet.py", "more = 1\n")
    assert edited & tried == importing("lib.pruning.thinet", tried) == {"pruning_comparison"}
    assert len(edited) < len(names) / 2
    assert reruns(root / "lib" / "new_section" / "technique.py", "more = 1\n") == set()  # nobody's yet
    assert reruns(root / "chapters" / "pruning.py", "\n# %%\n1\n") == {"pruning"}
    assert reruns(root / "lib" / "evidence.py", "more = 1\n") == set(names)
    assert reruns(root / "lib" / "book" / "build.py", "more = 1\n") == set()
    assert stamps() == before


def test_a_record_depends_on_code_and_not_on_words(small_book):
    shutil.copytree(chapters.LIB, small_book / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    source, module = small_book / "chapters" / "passes.py", small_book / "lib" / "evidence.py"
    before = fingerprints.sources(small_book, "passes", "quick")
    source.write_text(source.read_text().replace("The answer is", "We get").replace("# numbers to add", "# how many"))
    module.write_text('"""Other words."""\n' + module.read_text().split('"""', 2)[2] + "# and more\n")
    assert fingerprints.sources(small_book, "passes", "quick") == before
    module.write_text(module.read_text() + "more = 1\n")
    now = fingerprints.sources(small_book, "passes", "quick")
    assert {name for name in now if now[name] != before[name]} == {"lib/evidence.py"}


def test_a_record_depends_on_its_own_profile_s_parameters(small_book):
    source, profile = small_book / "chapters" / "passes.py", small_book / "profiles" / "standard.yml"
    profile.write_text("passes: {terms: 5}\n")
    quick, standard = (fingerprints.sources(small_book, "passes", name) for name in ("quick", "standard"))
    source.write_text(source.read_text().replace("terms = 3", "terms = 4"))  # which standard replaces
    assert fingerprints.sources(small_book, "passes", "standard") == standard
    now = fingerprints.sources(small_book, "passes", "quick")
    assert {name for name in now if now[name] != quick[name]} == {"parameters of passes"}
    profile.write_text("passes: {terms: 6}\n")
    assert fingerprints.sources(small_book, "passes", "standard") != standard


def test_data_are_found_by_the_names_that_parameters_give_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_DATA", str(tmp_path))
    sets = ["cifar10.zip", "MNIST/raw/train-images-idx3-ubyte", "monks/monks-1_train.csv"]
    others = [f"MNIST/raw/{name}" for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte")]
    for name in (*sets, *others, "MNIST/raw/t10k-labels-idx1-ubyte", "monks/monks-1_test.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def hashed(**parameters) -> str:
        return fingerprints.data_sha256(tmp_path / "none", {"seeds": 3, "kept": [0.1], **parameters})

    named = [
        {"data": "cifar10"},
        {"data": "mnist"},
        {"data": "cifar10", "gray_data": "mnist"},
        {"data": "digits", "problems": ["monks-1", "monks-2"]},
    ]
    before = [hashed(**parameters) for parameters in named]
    assert len({*before, ""}) == 5
    (tmp_path / "sgd").write_text("a file that bears a parameter's value for its name")
    assert hashed(data="digits") == hashed(data="monks-1-rule") == hashed(path="/") == hashed(optimizer="sgd") == ""
    for changed, name in enumerate(sets):
        (tmp_path / name).write_text("other")
        os.utime(tmp_path / name, ns=(changed, changed))
        now = [hashed(**parameters) for parameters in named]
        differ = [i for i in range(4) if now[i] != before[i]]
        assert differ == [[0, 2], [1, 2], [3]][changed]
        before = now


def test_chapters_that_need_each_other_are_refused(small_book, add_chapter):
    add_chapter("one", "1", survey="needs: [two]")
    add_chapter("two", "1", survey="needs: [one]")
    with pytest.raises(ValueError, match="the chapters one, two need each other"):
        fingerprints.fingerprint(small_book, "one", "quick")
