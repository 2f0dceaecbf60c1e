"""From source to page on a small book: what runs, what fails and how it says so, what is kept, what is built anew."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock
from small_book import PROJECT, copy_book, write_record

from lib.__main__ import main
from lib.book import build, chapters, gates, warm
from lib.book.run import ChapterFailed, run

KEY = "passes.sum.value"

pytestmark = pytest.mark.book


def results(root: Path, chapter: str = "passes", profile: str = "quick") -> Path:
    return root / "_build" / "results" / profile / f"{chapter}.json"


# --- one chapter -------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_stamped_notebook_and_its_results(small_book):
    assert run(small_book, "passes", "quick")["status"] == "ok"

    stamp = chapters.executed(small_book, "passes", "quick").metadata["survey"]
    assert stamp["chapter"] == "passes"
    assert stamp["profile"] == "quick"
    assert stamp["parameters"] == {}
    assert stamp["seconds"] > 0
    assert stamp["peak_mib"] > 20
    assert stamp["versions"]["python"].startswith("3.")
    written = json.loads(results(small_book).read_text())
    about = written.pop("run")
    assert written == {
        "chapter": "passes",
        "profile": "quick",
        "data": [],
        "records": {KEY: {"values": [4.0, 5.0], "unit": "points", "digits": 1}},
    }
    assert about["processor"] and about["versions"]["torch"] and about["seconds"] > 0 and about["peak_mib"] > 20
    assert about["sources"] == chapters.sources(small_book, "passes", "quick")
    assert {"chapters/passes.py", "lib/evidence.py", "requirements.lock"} < set(about["sources"])
    assert results(small_book).read_text().endswith("}\n")
    assert str(small_book) not in chapters.output(small_book, "passes", "quick").read_text()


def test_a_profile_replaces_parameters(small_book):
    run(small_book, "passes", "standard")
    found = chapters.executed(small_book, "passes", "standard")
    assert found.metadata["survey"]["parameters"] == {"terms": 5}
    assert json.loads(results(small_book, profile="standard").read_text())["records"][KEY]["values"] == [11.0, 12.0]
    assert chapters.executed(small_book, "passes", "quick") is None


def hears_ctrl_c() -> None:
    """A shell's background jobs, of which these tests may be one, are deaf to Ctrl-C: hear it again."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ('print("so far")\n\n# %%\n1 / 0', r"cell \[2\] raised ZeroDivisionError: division by zero"),
        ('print("so far")\n\n# %%\nwhile True: pass', r"cell \[2\] exceeded the limit of 3 s for one cell"),
        (
            'import time; print("so far"); time.sleep(2.5)\n\n# %%\ntime.sleep(2.5)\n\n# %%\ntime.sleep(2.5)',
            r"the chapter exceeded its limit of 6 s, in cell \[[23]\]",
        ),
        (
            'import os, signal; print("so far", flush=True)\n\n# %%\nos.kill(os.getpid(), signal.SIGKILL)',
            r"the kernel died in cell \[2\]: killed, or out of memory",
        ),
        (
            'import sys; print("so far")\n\n# %%\nprint("careful", file=sys.stderr)',
            r"cell \[2\] wrote to stderr: careful",
        ),
        (
            'from lib import evidence; print("so far")\n\n# %%\n'
            'for i in range(2): evidence.record("bad.sum.value", i, unit="", digits=0)',
            "the key 'bad.sum.value' is recorded twice",
        ),
        (
            'from lib import evidence; print("so far")\n\n# %%\n'
            'evidence.record("other.sum.value", 1, unit="", digits=0)',
            "the chapter 'bad' records 'other.sum.value'",
        ),
    ],
    ids=["raises", "cell hangs", "chapter hangs", "kernel dies", "stderr", "duplicate key", "foreign key"],
)
def test_a_failed_chapter_says_why_and_leaves_no_results(small_book, add_chapter, capsys, code, says):
    add_chapter("bad", code)
    (small_book / "profiles" / "quick.yml").write_text("limits: {cell_s: 3, chapter_s: 6}\n")

    with pytest.raises(ChapterFailed, match=says):
        run(small_book, "bad", "quick")

    assert not results(small_book, "bad").exists()
    assert chapters.executed(small_book, "bad", "quick") is None
    assert not chapters.output(small_book, "bad", "quick").exists()
    said = chapters.status(small_book, "bad", "quick")
    assert said["status"] == "failed"
    assert said["seconds"] > 0
    partial = nbformat.read(chapters.output(small_book, "bad", "quick", ".failed.ipynb"), as_version=4)
    assert "so far" in json.dumps(partial)


def test_a_failure_ends_what_an_earlier_run_left(small_book):
    run(small_book, "passes", "quick")
    source = small_book / "chapters" / "passes.py"
    source.write_text(source.read_text() + "\n# %%\n1 / 0\n")
    assert main(["--root", str(small_book), "run", "chapters/passes.py"]) == 1
    assert not chapters.output(small_book, "passes", "quick").exists()
    source.write_text(source.read_text().replace("1 / 0", "1 / 1"))
    assert main(["--root", str(small_book), "run", "passes"]) == 0
    assert not chapters.output(small_book, "passes", "quick", ".failed.ipynb").exists()


def test_a_chapter_without_kernelspec_is_refused(small_book):
    (small_book / "chapters" / "bare.py").write_text("# %%\n1\n")
    with pytest.raises(ChapterFailed, match="no kernelspec with name, display_name and language"):
        run(small_book, "bare", "quick")


@pytest.mark.parametrize(
    ("profile", "text", "chapter", "says"),
    [
        ("huge", None, "passes", "no profile is called 'huge': accepted are quick, standard"),
        ("quick", None, "pass", "no chapter is called 'pass': accepted are passes"),
        ("quick", "pruned: {terms: 3}", "passes", "no chapter is called 'pruned': accepted are passes"),
        (
            "quick",
            "passes: {term: 3}",
            "passes",
            "sets 'term', which is no parameter of the chapter 'passes': accepted are data, terms, values",
        ),
        (
            "quick",
            "limits: {minutes: 3}",
            "passes",
            "sets 'minutes', which is no limit: accepted are cell_s, chapter_s",
        ),
        ("quick", "- passes", "passes", "the profile 'quick' is a list: accepted is {chapter: {parameter: value}}"),
        ("quick", "passes: 3", "passes", "the profile 'quick' gives 'passes' the value 3: accepted is"),
        ("quick", "passes: [", "passes", "the profile 'quick' is not readable YAML"),
    ],
)
def test_unknown_names_are_refused_in_one_sentence(small_book, capsys, profile, text, chapter, says):
    if text:
        (small_book / "profiles" / "quick.yml").write_text(text)
    assert main(["--root", str(small_book), "run", chapter, "--profile", profile]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert says in said
    assert len(said.splitlines()) == 1


def test_a_second_run_waits_for_the_first(small_book):
    target = chapters.output(small_book, "passes", "quick")
    target.parent.mkdir(parents=True)
    with FileLock(target.with_suffix(".lock")):
        second = subprocess.Popen(
            [sys.executable, "-m", "lib", "--root", small_book, "run", "passes"], stdout=subprocess.PIPE, text=True
        )
        assert second.stdout.readline().startswith("passes: running")
        assert "another run of it is under way" in second.stdout.readline()
        assert not target.exists()
    assert second.wait(60) == 0
    assert target.exists()


# --- what a run depends on ---------------------------------------------------------------------------------------


def test_the_fingerprint_follows_all_that_a_run_depends_on(small_book, add_chapter, monkeypatch):
    add_chapter("reads", "1", survey="needs: [passes]")
    data = small_book / "data" / "letters"
    data.mkdir(parents=True)
    (data / "a.txt").write_text("a")
    shutil.copytree(chapters.LIB, small_book / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    source = small_book / "chapters" / "passes.py"
    source.write_text(source.read_text().replace('data = "none"', 'data = "letters"'))
    seen = [(chapters.fingerprint(small_book, "passes", "quick"), chapters.fingerprint(small_book, "reads", "quick"))]

    def changes(*parts: str) -> None:
        now = chapters.fingerprint(small_book, "passes", "quick"), chapters.fingerprint(small_book, "reads", "quick")
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

    def fingerprints() -> dict[str, dict]:
        return {name: chapters.fingerprint(root, name, "standard") for name in names}

    before = fingerprints()

    def reruns(path: Path, text: str) -> set[str]:
        old = path.read_text() if path.exists() else None
        path.parent.mkdir(exist_ok=True)
        path.write_text((old or "") + text)
        now = fingerprints()
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
        loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return {Path(line).stem for line in loaded.splitlines()}

    tried = {"pruning", "pruning_comparison", "quantization"}
    edited = reruns(root / "lib" / "pruning" / "thinet.py", "more = 1\n")
    assert edited & tried == importing("lib.pruning.thinet", tried) == {"pruning_comparison"}
    assert len(edited) < len(names) / 2
    assert reruns(root / "lib" / "distillation" / "soft_targets.py", "more = 1\n") == set()  # nobody's yet
    assert reruns(root / "chapters" / "pruning.py", "\n# %%\n1\n") == {"pruning"}
    assert reruns(root / "lib" / "training.py", "more = 1\n") == set(names)
    assert reruns(root / "lib" / "book.py", "more = 1\n") == set()
    assert fingerprints() == before


def test_a_record_depends_on_code_and_not_on_words(small_book):
    shutil.copytree(chapters.LIB, small_book / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    source, module = small_book / "chapters" / "passes.py", small_book / "lib" / "evidence.py"
    before = chapters.sources(small_book, "passes", "quick")
    source.write_text(source.read_text().replace("The answer is", "We get").replace("# numbers to add", "# how many"))
    module.write_text('"""Other words."""\n' + module.read_text().split('"""', 2)[2] + "# and more\n")
    assert chapters.sources(small_book, "passes", "quick") == before
    module.write_text(module.read_text() + "more = 1\n")
    now = chapters.sources(small_book, "passes", "quick")
    assert {name for name in now if now[name] != before[name]} == {"lib/evidence.py"}


def test_a_chapter_that_uses_what_it_does_not_import_fails(small_book, add_chapter):
    add_chapter("hidden", "import importlib\nimportlib.import_module('lib.pruning.thinet')")
    with pytest.raises(ChapterFailed, match=r"it used lib\S* without importing it"):
        run(small_book, "hidden", "quick")
    assert chapters.executed(small_book, "hidden", "quick") is None


def test_a_copied_checkout_runs_its_own_code(tmp_path):
    """With the environment of another checkout, as a worktree or a copied folder has it."""
    root = copy_book(tmp_path / "copy")
    shutil.copytree(chapters.LIB, root / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    with (root / "lib" / "evidence.py").open("a") as file:
        file.write("raise SystemExit('the copy was imported')\n")
    told = {"cwd": root, "capture_output": True, "text": True}
    assert "the copy was imported" in subprocess.run([sys.executable, "-m", "lib", "run", "passes"], **told).stderr
    source = root / "lib" / "evidence.py"
    source.write_text(source.read_text().replace("raise SystemExit", "len") + "OWN = 41\n")
    chapter = root / "chapters" / "passes.py"
    chapter.write_text(chapter.read_text().replace("sum(range(terms)) + v", "evidence.OWN + v"))
    for command in (["run", "passes"], ["--root", root, "book"]):
        place = root if command[0] == "run" else tmp_path
        done = subprocess.run([sys.executable, "-m", "lib", *command], **told | {"cwd": place})
        assert json.loads(results(root).read_text())["records"][KEY]["values"] == [42.0, 43.0], done.stderr
        shutil.rmtree(root / "_build")


def test_a_kernel_with_another_lib_is_refused(small_book):
    source = small_book / "chapters" / "passes.py"
    lines = "import sys, types\nother = types.ModuleType('lib.other'); other.__file__ = '/nowhere/other.py'\n"
    source.write_text(source.read_text() + f"\n# %%\n{lines}sys.modules['lib.other'] = other\n")
    with pytest.raises(ChapterFailed, match=r"imported lib\.other from another place than the book's own lib"):
        run(small_book, "passes", "quick")


def test_data_are_found_by_the_names_that_parameters_give_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_DATA", str(tmp_path))
    sets = ["cifar10.zip", "MNIST/raw/train-images-idx3-ubyte", "monks/monks-1_train.csv"]
    others = [f"MNIST/raw/{name}" for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte")]
    for name in (*sets, *others, "MNIST/raw/t10k-labels-idx1-ubyte", "monks/monks-1_test.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def hashed(**parameters) -> str:
        return chapters.data_sha256(tmp_path / "none", {"seeds": 3, "kept": [0.1], **parameters})

    named = [
        {"data": "cifar10"},
        {"data": "mnist"},
        {"data": "cifar10", "grey_data": "mnist"},
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
        chapters.fingerprint(small_book, "one", "quick")


def test_parameters_are_read_from_their_cell(small_book):
    found = chapters.defaults(chapters.notebook(small_book, "passes"))
    assert found == {"data": "none", "terms": 3, "values": [1.0, 2.0]}


def test_a_text_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "results.json"
    chapters.write(path, "before")
    with pytest.raises(UnicodeEncodeError):
        chapters.write(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]


# --- the whole book ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The small book, built once, in a repository that has an address."""
    root = copy_book(tmp_path_factory.mktemp("built") / "book")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURVEY_REPOSITORY", "git@github.com:someone/some-build.git")
        patch.setenv("SURVEY_BRANCH", "trunk")
        assert build.book(root, "quick", 2) == 0
    return root


def test_the_book_is_built_with_its_numbers_figures_and_formulas(built):
    pages = dict(gates.pages(built))
    assert "4.5 ± 6.4 points" in pages["index.html"].get_text()
    chapter = pages["chapters/passes.html"]
    assert "4.5 ± 6.4 points" in chapter.get_text()
    assert [image["alt"] for image in chapter.select("figure img")] == ["A line of 3 points rises"]
    assert chapter.select_one("figure#fig-line")
    assert chapter.select_one("figure figcaption").get_text().strip().startswith("Fig. 1")
    assert chapter.select_one("span.math")
    assert (built / "_build/html/_static/mathjax/tex-chtml.js").exists()


def test_links_point_at_the_source_in_the_repository(built):
    links = {link["href"] for link in dict(gates.pages(built))["chapters/passes.html"].find_all("a", href=True)}
    assert "https://mybinder.org/v2/gh/someone/some-book/trunk?urlpath=lab/tree/chapters/passes.py" in links
    assert "https://github.com/someone/some-book/edit/trunk/chapters/passes.py" in links
    assert any(link.startswith("https://github.com/someone/some-book/issues/new") for link in links)


def test_a_second_build_runs_nothing_and_says_where_the_pages_are(built, monkeypatch, capfd):
    monkeypatch.delenv("SURVEY_REPOSITORY", raising=False)
    executed = chapters.output(built, "passes", "quick")
    before = executed.stat().st_mtime_ns
    results(built).unlink()

    assert main(["--root", str(built), "book"]) == 0

    said = capfd.readouterr().out
    assert executed.stat().st_mtime_ns == before
    assert "passes: up to date" in said
    assert str(built / "_build" / "html" / "index.html") in said
    assert results(built).exists()  # what a kept run measured is written again
    text = (built / "_build/html/chapters/passes.html").read_text()
    assert "mybinder.org" not in text  # no address is known: no buttons
    assert "/edit/" not in text


@pytest.mark.parametrize("part", ["code_sha256", "lib_sha256", "lock_sha256", "parameters", "profile"])
def test_a_page_whose_run_is_of_another_state_fails_the_build(built, tmp_path, part):
    root = shutil.copytree(built, tmp_path / "book")
    path = chapters.output(root, "passes", "quick")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["survey"][part] = "another"
    nbformat.write(notebook, path)
    problems = build.pages(root, "quick")
    assert any("no run matches its source" in problem for problem in problems)
    assert "has not run" in (root / "_build/html/chapters/passes.html").read_text()


def test_a_number_that_nothing_recorded_fails_the_build(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "book")
    page = root / "index.md"
    page.write_text(page.read_text().replace("passes.sum.value:s", "passes.sum.other:s"))
    assert any("passes.sum.other" in problem for problem in build.pages(root, "quick"))


def test_new_words_reach_the_page_without_a_run(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "book")
    source = root / "chapters" / "passes.py"
    source.write_text(source.read_text().replace("The answer is", "After counting we get"))
    before = chapters.output(root, "passes", "quick").stat().st_mtime_ns
    assert build.execute(root, "quick", 2) == [] and build.pages(root, "quick") == []
    assert chapters.output(root, "passes", "quick").stat().st_mtime_ns == before
    text = dict(gates.pages(root))["chapters/passes.html"].get_text()
    assert "After counting we get 4.5 ± 6.4 points" in text and "The answer is" not in text


def test_a_profile_s_own_parameters_stay_on_the_page_with_new_words(small_book):
    run(small_book, "passes", "standard")
    source = small_book / "chapters" / "passes.py"
    source.write_text(source.read_text().replace("The answer is", "We get"))
    cells = chapters.executed(small_book, "passes", "standard").cells
    assert "We get" in cells[0].source
    tags = [cell.metadata.get("tags", []) for cell in cells]
    assert tags[1] == ["parameters"] and "injected-parameters" in tags[2] and "terms = 5" in cells[2].source
    assert [cell.cell_type for cell in cells[3:]] == ["code", "markdown", "code"]


def test_a_page_that_was_built_before_does_not_hide_that_it_is_gone(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "book")
    (root / "_build/html/old.html").write_text("<p>old</p>")
    assert build.pages(root, "quick") == []
    assert not (root / "_build/html/old.html").exists()


def test_a_failing_chapter_stops_nothing_else(small_book, add_chapter, capfd):
    add_chapter("bad", "raise RuntimeError('no luck today')")
    add_chapter("reads", "1", survey="needs: [bad]")

    assert build.book(small_book, "quick", 2) == 1

    said = capfd.readouterr()
    assert chapters.status(small_book, "passes", "quick")["status"] == "ok"
    assert results(small_book).exists()
    assert "FAILED  chapter bad: cell [1] raised RuntimeError: no luck today" in said.err
    assert "FAILED  chapter reads: it waits for bad" in said.err
    assert "4.5 ± 6.4 points" in (small_book / "_build/html/index.html").read_text()
    assert "no luck today" in (small_book / "_build/html/chapters/bad.html").read_text()


def test_two_builds_at_once_run_a_chapter_once_and_both_end_well(small_book):
    source = small_book / "chapters" / "passes.py"
    count = "\n# %%\nimport time\nwith open('../runs', 'a') as file:\n    file.write('run ')\ntime.sleep(2)\n"
    source.write_text(source.read_text() + count)
    for profile in ("quick", "standard"):
        write_record(small_book, profile, [11.0, 12.0])
    command = [sys.executable, "-m", "lib", "--root", small_book, "book"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": PROJECT}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    said = [one.communicate(timeout=240)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert (small_book / "runs").read_text() == "run "


def test_a_full_disk_is_one_sentence_and_nothing_half_written(small_book, monkeypatch, capsys):
    real = Path.write_text

    def full(path: Path, text: str, *more: object) -> int:
        if path.name.startswith(".passes.ipynb"):
            real(path, text[: len(text) // 2], *more)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, text, *more)

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["--root", str(small_book), "run", "passes"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "No space left on device" in said and len(said.splitlines()) == 1
    folder = chapters.output(small_book, "passes", "quick").parent
    assert not [path for path in folder.iterdir() if path.suffix == ".ipynb" or path.name.startswith(".passes")]
    monkeypatch.undo()
    assert main(["--root", str(small_book), "run", "passes"]) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_stopped_build_goes_on_where_it_was(small_book, add_chapter, number):
    wait = small_book / "wait"
    wait.touch()
    add_chapter("slow", f"import pathlib, time\nwhile pathlib.Path({str(wait)!r}).exists(): time.sleep(0.1)")
    command = [sys.executable, "-m", "lib", "--root", small_book, "book"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(command, start_new_session=True, preexec_fn=hears_ctrl_c, **quiet)
    done, under_way = (chapters.output(small_book, name, "quick") for name in ("passes", "slow"))
    deadline = time.monotonic() + 60
    while not (done.exists() and under_way.with_suffix(".lock").exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(first.pid, number)
    assert first.wait(30) == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    before = done.stat().st_mtime_ns
    assert not under_way.exists()
    wait.unlink()

    assert build.execute(small_book, "quick", 2) == []

    assert done.stat().st_mtime_ns == before
    assert under_way.exists()

    source = small_book / "chapters" / "passes.py"  # and a change is seen all the same
    source.write_text(source.read_text() + "\n# %%\n")
    assert build.execute(small_book, "quick", 2) == []
    assert done.stat().st_mtime_ns > before


def test_a_chapter_that_measures_time_runs_alone(small_book, add_chapter):
    add_chapter("times", "1", survey="alone: true")
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--dry-run", "--directory", small_book]
    said = subprocess.run([*command, "-s", small_book / "Snakefile"], capture_output=True, text=True, check=True)
    jobs = re.split(r"rule chapter:\n", said.stdout + said.stderr)[1:]
    threads = {name: ["threads: 2" in job for job in jobs if f"{name}.py" in job] for name in ("passes", "times")}
    assert threads == {"passes": [False], "times": [True]}


def test_snakemake_failing_by_itself_is_told(small_book):
    (small_book / "Snakefile").write_text("rule all:\n    input: 'nothing-makes-this'\n")
    problems = build.execute(small_book, "quick", 2)
    assert problems[0] == "chapter passes: it has not run to its end"
    assert len(problems) == 2 and problems[1].startswith("snakemake failed: ") and "passes.ipynb" in problems[1]


# --- showing ---------------------------------------------------------------------------------------


def test_serve_shows_the_pages_on_this_machine_only(built):
    command = [sys.executable, "-m", "lib", "--root", built, "serve", "--port", "18765"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c)
    try:
        address = server.stdout.readline().split()[4]
        assert address.startswith("http://127.0.0.1:187")
        assert b"A small book" in urllib.request.urlopen(address).read()
    finally:
        server.send_signal(signal.SIGINT)
    assert server.wait(10) == 0


def test_serve_asks_for_a_build_first(small_book, capsys):
    assert main(["--root", str(small_book), "serve"]) == 1
    assert "build the book first" in capsys.readouterr().err
