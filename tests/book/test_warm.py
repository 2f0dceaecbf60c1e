"""Runners and kernels forked from one server: the same results, limits and ends as processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib.book import last_run, run, warm

pytestmark = pytest.mark.book
PROJECT = Path(__file__).parents[2]


def command(root: Path, chapter: str, place: str, **options: object) -> subprocess.Popen:
    environment = os.environ | {warm.PLACE: place, "PYTHONPATH": str(PROJECT)}
    arguments = [sys.executable, "-m", "lib", "--root", root, "run", chapter]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(arguments, env=environment, cwd=root, **pipes, **options)


def test_a_forked_run_measures_what_a_fresh_one_does(small_book, place):
    started = command(small_book, "passes", place)
    said, errors = started.communicate(timeout=120)
    assert started.returncode == 0, errors
    assert "passes: done" in said and errors == ""
    path = last_run.built_results(small_book, "quick") / "passes.json"
    forked = json.loads(path.read_text())
    run.run(small_book, "passes", "quick")
    fresh = json.loads(path.read_text())
    for one in (forked, fresh):
        one["run"].pop("seconds"), one["run"].pop("peak_mib")
    assert forked == fresh


def test_a_fork_is_what_ran_and_it_loads_its_own_lib(small_book, add_chapter, place):
    add_chapter(
        "looks",
        "import os, sys\nbefore = 'torch' in sys.modules\nfrom lib import evidence\n"
        "evidence.record('looks.at.parent', os.getppid(), unit='', digits=0)\n"
        "evidence.record('looks.at.torch', int(before), unit='', digits=0)\n"
        "evidence.record('looks.at.threads', int(os.environ['OMP_NUM_THREADS']), unit='', digits=0)",
    )
    started = command(small_book, "looks", place)
    started.communicate(timeout=120)
    assert started.returncode == 0
    found = json.loads((last_run.built_results(small_book, "quick") / "looks.json").read_text())["records"]
    assert found["looks.at.torch"]["values"] == [1.0]  # loaded before the chapter began
    assert found["looks.at.threads"]["values"] == [1.0]
    assert found["looks.at.parent"]["values"] != [started.pid]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("1 / 0", "cell [1] raised ZeroDivisionError: division by zero"),
        ("while True: pass", "cell [1] exceeded the limit of 3 s for one cell"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "the kernel died in cell [1]"),
        ("import sys\nprint('careful', file=sys.stderr)", "cell [1] wrote to stderr: careful"),
    ],
    ids=["raises", "hangs", "dies", "stderr"],
)
def test_a_forked_run_fails_as_a_fresh_one_does(small_book, add_chapter, place, code, says):
    add_chapter("bad", code)
    (small_book / "profiles" / "quick.yml").write_text("limits: {cell_s: 3, chapter_s: 30}\n")
    started = command(small_book, "bad", place)
    said, errors = started.communicate(timeout=60)
    assert started.returncode == 1
    assert f"bad: FAILED: {says}" in said and says in errors


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "terminated"])
def test_a_run_whose_client_is_gone_ends(small_book, add_chapter, place, number):
    note = small_book / "kernel"
    add_chapter(
        "slow", f"import os, pathlib, time\npathlib.Path({str(note)!r}).write_text(str(os.getpid()))\ntime.sleep(99)"
    )
    started = command(small_book, "slow", place)
    deadline = time.monotonic() + 60
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    kernel = Path("/proc", note.read_text())
    assert kernel.exists()
    started.send_signal(number)
    started.wait(20)
    while kernel.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not kernel.exists()
    assert last_run.executed(small_book, "slow", "quick") is None


def test_without_a_server_a_command_runs_by_itself(small_book, tmp_path):
    started = command(small_book, "passes", str(tmp_path / "nobody"))
    said, _ = started.communicate(timeout=120)
    assert started.returncode == 0 and "passes: done" in said


def test_a_server_ends_with_the_process_that_started_it(tmp_path):
    code = (
        "import os, subprocess, sys, time\nfrom pathlib import Path\nfrom lib.book import warm\n"
        f"with warm.server(Path({str(tmp_path)!r}), {{}}) as place:\n    print(place, flush=True)\n    time.sleep(99)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    place = owner.stdout.readline().strip()
    find = ["pgrep", "-f", f"lib.book.warm {place}"]
    deadline = time.monotonic() + 60
    while subprocess.run(find, capture_output=True).returncode and time.monotonic() < deadline:
        time.sleep(0.1)
    owner.kill()
    while not subprocess.run(find, capture_output=True).returncode and time.monotonic() < deadline:
        time.sleep(0.1)
    assert subprocess.run(find, capture_output=True).returncode == 1
