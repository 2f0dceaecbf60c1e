"""Start chapters without delay: one process loads the libraries, and every chapter's runner and kernel are its forks.

Loading torch and other libraries takes seconds, which each chapter would spend again. :mod:`lib.book.execution` starts
this server (``python -m lib.book.warm SOCKET``) before Snakemake; ``python -m lib run`` finds it by ``SURVEY_WARM`` and
hands its command over. The server forks a runner, and the runner first of all forks the process that will be its
kernel. Both are separate processes with their own memory, signals and exit, as without the server. No module of ``lib``
stays loaded, so a kernel imports the chapter's own. Without a server everything works the same, only slower.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

PLACE = "SURVEY_WARM"  # the environment variable that names the server's socket
LIBRARIES = (
    *("papermill", "nbclient", "jupytext", "ipykernel.kernelapp", "ipykernel.ipkernel", "IPython"),
    *("numpy", "scipy.stats", "scipy.optimize", "scipy.special", "pandas", "pandas.io.formats.style", "numba"),
    *("sklearn.datasets", "torch", "torch._dynamo", "torch.fx", "torch.nn.utils.parametrize", "safetensors.torch"),
    *("torch.utils.flop_counter", "torch.ao.quantization", "torch_pruning", "constriction", "filelock"),
    *("matplotlib.figure", "matplotlib.ticker", "matplotlib.backends.backend_svg", "IPython.core.display"),
)


# --- the client --------------------------------------------------------------------------------------------------


def hand_over(arguments: list[str]) -> int | None:
    """Let the server run ``python -m lib`` with these arguments; return its exit status, or None without a server.

    arguments: the words after ``python -m lib``.
    """
    try:
        place = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        place.connect(os.environ[PLACE])
    except (KeyError, OSError):
        return None
    with place:
        order = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        content = json.dumps(order).encode()
        socket.send_fds(place, [len(content).to_bytes(8, "big")], [0, 1, 2])
        place.sendall(content)
        answer = place.makefile("r")
        runner = int(answer.readline() or 0)
        signal.signal(signal.SIGTERM, lambda number, frame: os.kill(runner, number))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the runner, whose end ends this process
        return int(answer.readline() or 1)  # a runner that was killed says nothing


# --- the server --------------------------------------------------------------------------------------------------


@contextmanager
def server(root: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run a server for the commands that are started inside the block; it ends with the block, or with this process.

    root: the folder in which it works.
    environment: what the libraries see when they are loaded, such as the number of threads.
    Yields the path of its socket, the value for ``SURVEY_WARM``.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder, "socket"))
        command = [sys.executable, "-m", "lib.book.warm", place]
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        variables = os.environ | environment | {"PYTHONPATH": path}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=variables, cwd=root)
        try:
            yield place
        finally:
            process.terminate()
            process.wait()


def serve(place: str) -> NoReturn:
    """Load the libraries, then fork a runner for each client, until the process that started this one has gone.

    place: the path of the socket to make.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(place)
    listening.listen(64)  # clients wait here while the libraries load
    for name in LIBRARIES:
        with suppress(Exception):  # one that is missing or broken fails where a chapter uses it
            importlib.import_module(name)
    _load_torchvision()
    forget()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended runners leave no zombies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the runners; whoever started this server ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        client, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            _runner(client)
        client.close()


def _load_torchvision() -> None:
    """Load torchvision through ``lib``, which repairs its import. Keep the module: the repair lasts as long."""
    with suppress(Exception):
        kept.append(importlib.import_module("lib.vision"))


kept: list[object] = []


def forget() -> None:
    """Forget every module of ``lib``, so that the next import reads it from the present search path."""
    for name in [name for name in sys.modules if name.split(".")[0] == "lib"]:
        del sys.modules[name]


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # closed when the process that started this one ends, however it ends
    os._exit(0)


def _runner(client: socket.socket) -> NoReturn:
    """In a fork: take the client's command, folder, environment and terminal, run the command, send its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from jupyter_client.provisioning import local_provisioner

    status = 1
    try:
        head, files, _, _ = socket.recv_fds(client, 8, 3)
        content = b""
        while len(content) < int.from_bytes(head, "big"):
            content += client.recv(1 << 16)
        order = json.loads(content)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(os.dup(n), m, 1) for n, m in enumerate(("r", "w", "w")))
        os.environ.clear()
        os.environ.update(order["environment"])
        os.environ.pop(PLACE, None)
        os.chdir(order["folder"])
        Prepared.ready = Prepared(client)
        local_provisioner.launch_kernel = Prepared.launch  # type: ignore[attr-defined,assignment] # no Popen, but like it
        client.sendall(f"{os.getpid()}\n".encode())
        threading.Thread(target=_end_with_client, args=(client,), daemon=True).start()
        sys.path[0] = order["folder"]
        sys.argv[:] = ["lib", *order["arguments"]]
        runpy.run_module("lib", run_name="__main__", alter_sys=True)  # ends with SystemExit: python -m lib
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except KeyboardInterrupt:
        status = 130
    except BaseException as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        if Prepared.ready:
            Prepared.ready.close()
        with suppress(Exception):
            sys.stdout.flush(), sys.stderr.flush()
        with suppress(OSError):
            client.sendall(f"{status}\n".encode())
        os._exit(status)


def _end_with_client(client: socket.socket) -> None:
    if not client.recv(1):  # the client was killed: nobody waits for this run any more
        os._exit(1)


# --- the kernel --------------------------------------------------------------------------------------------------


class Prepared:
    """A fork of a runner that waits to become its kernel. To Jupyter it looks like a ``subprocess.Popen``."""

    ready: "Prepared | None" = None
    stdin = stdout = stderr = None

    def __init__(self, client: socket.socket) -> None:
        self.returncode: int | None = None
        read, self.write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(read)
            return
        os.close(self.write)
        client.close()
        os.setsid()  # Jupyter interrupts and ends a kernel with its whole group
        with os.fdopen(read, "rb") as pipe:
            content = pipe.read()
        if not content:
            os._exit(0)
        _become_kernel(json.loads(content))

    @classmethod
    def launch(cls, command: list[str], **options: Any) -> "Prepared":
        """Take the place of ``jupyter_client.launcher.launch_kernel``: the waiting process becomes the kernel.

        command: the kernel's command line.
        options: those of ``launch_kernel``; only ``cwd`` and ``env`` are used.
        """
        process, cls.ready = cls.ready, None
        if process is None:
            raise RuntimeError("a runner has only one kernel, which was already launched")
        while os.getpgid(process.pid) != process.pid:
            time.sleep(0.01)
        order = {
            "command": command,
            "folder": str(options.get("cwd") or os.getcwd()),
            "environment": options.get("env") or dict(os.environ),
        }
        with os.fdopen(process.write, "wb") as pipe:
            pipe.write(json.dumps(order).encode())
        return process

    def close(self) -> None:
        """End the waiting process if no kernel was needed."""
        os.close(self.write)
        self.wait()

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status; raise subprocess.TimeoutExpired after ``timeout`` seconds."""
        start = time.monotonic()
        while (status := self.poll()) is None:
            if timeout is not None and time.monotonic() - start > timeout:
                raise subprocess.TimeoutExpired("kernel", timeout)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        """Send the signal of this number, if the process still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process."""
        self.send_signal(signal.SIGKILL)


def _become_kernel(order: dict[str, Any]) -> NoReturn:
    """Do what ``python -m ipykernel_launcher`` does, without a new Python: set folder, environment and search path."""
    status = 1
    try:
        environment = order["environment"]
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(order["folder"])
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        forget()
        first = environment.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:] = [*filter(None, first), *(place for place in sys.path[1:] if place not in first)]
        from ipykernel.kernelapp import IPKernelApp

        arguments = order["command"][order["command"].index("-f") :]
        IPKernelApp.launch_instance(argv=[*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
