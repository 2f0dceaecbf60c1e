"""One chapter is run: what it leaves, how it fails, and which lib it imports."""

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock
from nbclient import NotebookClient
from small_book import KEY, copy_book, results

from lib.__main__ import main
from lib.book import chapters, fingerprints, last_run
from lib.book import run as book_run
from lib.book.run import ChapterFailed, run

pytestmark = pytest.mark.book


def test_a_run_leaves_a_stamped_notebook_and_its_results(small_book):
    assert run(small_book, "passes", "quick")["status"] == "ok"

    stamp = last_run.executed(small_book, "passes", "quick").metadata["survey"]
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
        "records": {KEY: {"values": [3.5, 4.5, 5.5], "unit": "points", "digits": 1}},
    }
    assert about["processor"] and about["versions"]["torch"] and about["seconds"] > 0 and about["peak_mib"] > 20
    assert about["sources"] == fingerprints.sources(small_book, "passes", "quick")
    assert {"chapters/passes.py", "lib/evidence.py", "requirements.lock"} < set(about["sources"])
    assert results(small_book).read_text().endswith("}\n")
    assert str(small_book) not in last_run.output(small_book, "passes", "quick").read_text()


def test_a_profile_replaces_parameters(small_book):
    run(small_book, "passes", "standard")
    found = last_run.executed(small_book, "passes", "standard")
    assert found.metadata["survey"]["parameters"] == {"terms": 5}
    assert json.loads(results(small_book, profile="standard").read_text())["records"][KEY]["values"] == [
        10.5,
        11.5,
        12.5,
    ]
    assert last_run.executed(small_book, "passes", "quick") is None


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
    assert last_run.executed(small_book, "bad", "quick") is None
    assert not last_run.output(small_book, "bad", "quick").exists()
    said = last_run.status(small_book, "bad", "quick")
    assert said["status"] == "failed"
    assert said["seconds"] > 0
    partial = nbformat.read(last_run.output(small_book, "bad", "quick", ".failed.ipynb"), as_version=4)
    assert "so far" in json.dumps(partial)


def test_output_that_does_not_come_is_no_exceeded_limit(small_book, monkeypatch):
    """A cell had ended, but its kernel got no time to send what it wrote."""

    async def nothing(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(NotebookClient, "_async_poll_output_msg", nothing)
    monkeypatch.setattr(book_run, "OUTPUT_S", 0)
    with pytest.raises(ChapterFailed, match=r"cell \[1\] ended, but its output did not come in 0 s"):
        run(small_book, "passes", "quick")


def test_a_failure_ends_what_an_earlier_run_left(small_book):
    run(small_book, "passes", "quick")
    source = small_book / "chapters" / "passes.py"
    source.write_text(source.read_text() + "\n# %%\n1 / 0\n")
    assert main(["--root", str(small_book), "run", "chapters/passes.py"]) == 1
    assert not last_run.output(small_book, "passes", "quick").exists()
    source.write_text(source.read_text().replace("1 / 0", "1 / 1"))
    assert main(["--root", str(small_book), "run", "passes"]) == 0
    assert not last_run.output(small_book, "passes", "quick", ".failed.ipynb").exists()


def test_a_chapter_without_kernelspec_is_refused(small_book):
    (small_book / "chapters" / "bare.py").write_text("# %%\n1\n")
    with pytest.raises(ChapterFailed, match="no kernelspec with name, display_name and language"):
        run(small_book, "bare", "quick")


def test_a_second_run_waits_for_the_first(small_book):
    target = last_run.output(small_book, "passes", "quick")
    target.parent.mkdir(parents=True)
    with FileLock(target.with_suffix(".lock")):
        second = subprocess.Popen(
            [sys.executable, "-m", "lib", "--root", small_book, "run", "passes"], stdout=subprocess.PIPE, text=True
        )
        assert second.stdout.readline().startswith("passes: running")
        assert "already running, waiting for that run" in second.stdout.readline()
        assert not target.exists()
    assert second.wait(60) == 0
    assert target.exists()


def test_a_chapter_that_uses_what_it_does_not_import_fails(small_book, add_chapter):
    add_chapter("hidden", "import importlib\nimportlib.import_module('lib.pruning.thinet')")
    with pytest.raises(ChapterFailed, match=r"it used lib\S* without importing it"):
        run(small_book, "hidden", "quick")
    assert last_run.executed(small_book, "hidden", "quick") is None


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
        assert json.loads(results(root).read_text())["records"][KEY]["values"] == [41.5, 42.5, 43.5], done.stderr
        shutil.rmtree(root / "_build")


def test_a_kernel_with_another_lib_is_refused(small_book):
    source = small_book / "chapters" / "passes.py"
    lines = "import sys, types\nother = types.ModuleType('lib.other'); other.__file__ = '/nowhere/other.py'\n"
    source.write_text(source.read_text() + f"\n# %%\n{lines}sys.modules['lib.other'] = other\n")
    with pytest.raises(ChapterFailed, match=r"imported lib\.other from outside the book's own lib"):
        run(small_book, "passes", "quick")


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
    folder = last_run.output(small_book, "passes", "quick").parent
    assert not [path for path in folder.iterdir() if path.suffix == ".ipynb" or path.name.startswith(".passes")]
    monkeypatch.undo()
    assert main(["--root", str(small_book), "run", "passes"]) == 0
