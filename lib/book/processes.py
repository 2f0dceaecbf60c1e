"""Wait for programs that the book starts, end them with everything they started, and read their last output."""

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
    """Wait for a process and return its exit status.

    On Ctrl-C the process gets time to stop what it started, and then Python exits. A SIGTERM reaches only this Python,
    which kills the process with everything it started, and exits.

    process: one that Ctrl-C reaches too.
    seconds: after this time it is killed with everything it started, and 0 is returned; by default there is no limit.
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
        print("Stopped. The same command continues from here: finished chapters are kept.", file=sys.stderr)
        sys.exit(130)
    except SystemExit:
        stop(process)
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and everything it started, parents first, so that they cannot start more."""
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
    """Return the last five lines of a log, joined into one."""
    lines = [line.strip() for line in log.read_text("utf-8").splitlines() if line.strip()]
    return " / ".join(lines[-5:]) or f"nothing was written to {log}"
