"""Chapters run through Snakemake: alone where they measure time, on from where a stopped build was."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from small_book import hears_ctrl_c

from lib.book import execution, last_run

pytestmark = pytest.mark.book


@pytest.mark.usefixtures("warm_runs")  # for the runs after it: the stopped build starts a server of its own
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_stopped_build_goes_on_where_it_was(small_book, add_chapter, number):
    wait = small_book / "wait"
    wait.touch()
    add_chapter("slow", f"import pathlib, time\nwhile pathlib.Path({str(wait)!r}).exists(): time.sleep(0.1)")
    command = [sys.executable, "-m", "lib", "--root", small_book, "book"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(command, start_new_session=True, preexec_fn=hears_ctrl_c, **quiet)
    done, under_way = (last_run.output(small_book, name, "quick") for name in ("passes", "slow"))
    deadline = time.monotonic() + 60
    while not (done.exists() and under_way.with_suffix(".lock").exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(first.pid, number)
    assert first.wait(30) == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    before = done.stat().st_mtime_ns
    assert not under_way.exists()
    wait.unlink()

    assert execution.execute(small_book, "quick", 2) == []

    assert done.stat().st_mtime_ns == before
    assert under_way.exists()

    source = small_book / "chapters" / "passes.py"  # and a change is seen all the same
    source.write_text(source.read_text() + "\n# %%\n")
    assert execution.execute(small_book, "quick", 2) == []
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
    problems = execution.execute(small_book, "quick", 2)
    assert problems[0] == "chapter passes: it has not run to the end"
    assert len(problems) == 2 and problems[1].startswith("snakemake failed: ") and "passes.ipynb" in problems[1]
