"""Other programs: their status, their end, their last words."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib.book import processes

PARENT = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {child!r}]); child.wait()"
CHILD = "import pathlib, time; pathlib.Path({mark!r}).touch(); time.sleep(60)"


def started(code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", code])


@pytest.mark.parametrize("status", [0, 3])
def test_the_status_is_that_of_the_process(status):
    assert processes.wait(started(f"raise SystemExit({status})")) == status


def child_of(process: "subprocess.Popen[bytes]", mark: Path) -> Path:
    """The state of the process's one child, in a file, once the child has made its mark."""
    deadline = time.monotonic() + 30
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    (children,) = Path("/proc", str(process.pid), "task", str(process.pid)).glob("children")
    return Path("/proc", children.read_text().split()[0], "stat")


def ends(child: Path) -> bool:
    deadline = time.monotonic() + 10
    while child.exists() and child.read_text().split(") ")[1][0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    return not child.exists() or child.read_text().split(") ")[1][0] == "Z"  # its parent may not have asked yet


def test_a_process_that_takes_too_long_is_stopped_with_its_children(tmp_path: Path):
    mark = tmp_path / "begun"
    process = started(PARENT.format(child=CHILD.format(mark=str(mark))))
    child = child_of(process, mark)
    assert processes.wait(process, 0.1) == 0
    assert process.returncode == -9
    assert ends(child)


def test_a_command_that_is_terminated_stops_what_it_started(tmp_path: Path):
    mark = tmp_path / "begun"
    waits = "import subprocess, sys; from lib.book import processes; "
    waits += "processes.wait(subprocess.Popen([sys.executable, '-c', {child!r}]))"
    command = started(waits.format(child=CHILD.format(mark=str(mark))))
    child = child_of(command, mark)
    command.terminate()
    assert command.wait(10) == 143
    assert ends(child)


def test_the_last_five_lines_are_told_in_one(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("".join(f" line {i} \n\n" for i in range(9)))
    assert processes.last_lines(log) == "line 4 / line 5 / line 6 / line 7 / line 8"
    log.write_text("\n")
    assert processes.last_lines(log) == f"nothing was written to {log}"
