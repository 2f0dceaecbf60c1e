"""Other programs that the book starts: waiting for them, ending them with all that they started, their last words."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn


def wait(process: "subprocess.Popen[bytes]", seconds: float | None = None) -> int:
    """Wait for a process and return its exit status. On Ctrl-C it gets the time to end its own, and Python exits.

    A SIGTERM, which reaches this Python alone, stops the process with all that it started before Python exits.

    process: one that Ctrl-C reaches too.
    seconds: after this time it is stopped with all that it started, and its status is 0; by default it has no limit.
    """

    def ended(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, ended) if threading.current_thread() is threading.main_thread() else None
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        stop(process)
        return 0
    except KeyboardInterrupt:
        process.wait()
        print("Stopped. The same command goes on from here: finished chapters are kept.", file=sys.stderr)
        sys.exit(130)
    except SystemExit:
        stop(process)
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started: first those that start others, then what is left of them."""
    family, waiting = [], [process.pid]
    while waiting:
        parent = waiting.pop()
        family.append(parent)
        for children in Path("/proc", str(parent), "task").glob("*/children"):
            with suppress(OSError):
                waiting += map(int, children.read_text().split())
    for member in family:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    process.wait()


def last_lines(log: Path) -> str:
    """Return the last five lines of a log, in one line."""
    lines = [line.strip() for line in log.read_text("utf-8").splitlines() if line.strip()]
    return " / ".join(lines[-5:]) or f"nothing was written to {log}"
